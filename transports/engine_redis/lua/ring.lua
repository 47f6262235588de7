-- ARGV: worker, queue. Rings the bell of a queue again, for another worker than this.

call('DEL', ns .. 'nudge:' .. ARGV[1])
ring(ARGV[2])
return 1
