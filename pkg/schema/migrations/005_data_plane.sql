-- What pop and ack keep beside Queen's columns.

-- step: leases know their end
-- needs: ownership of table queen.partition_consumers
-- unless columns: partition_consumers lease_end_created_at lease_end_id lease_end_seq
-- The last message that was delivered under the lease: it ends when the cursor
-- gets there. Null without a lease, and under one that Queen gave.
ALTER TABLE queen.partition_consumers
    ADD COLUMN IF NOT EXISTS lease_end_created_at timestamptz,
    ADD COLUMN IF NOT EXISTS lease_end_id         uuid,
    ADD COLUMN IF NOT EXISTS lease_end_seq        bigint;
