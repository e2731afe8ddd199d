-- The floor's way by COPY: the same columns; created_at is the column's default, the
-- transaction's begin.
COPY queen.messages (id, transaction_id, trace_id, partition_id, payload, is_encrypted, producer_sub, seq) FROM STDIN (FORMAT binary)
