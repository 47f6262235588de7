-- ARGV: worker. Ends its own wait at the bells.

write_when_full()
return call('LPUSH', ns .. 'nudge:' .. ARGV[1], 1)
