package loop

const childEnv = "QUEEND_LOOP_TEST_CHILD"

var children = map[string]func(){}
