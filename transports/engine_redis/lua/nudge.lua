-- ARGV: worker. Ends its own wait at the bells.

call('DEL', ns .. 'nudge:' .. ARGV[1])
return call('LPUSH', ns .. 'nudge:' .. ARGV[1], 1)
