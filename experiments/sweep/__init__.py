"""Many runs from one grid: planned and checked first, then run here or on a cluster, each line by
one worker at a time."""
