-- ARGV: an order, the channel that wakes the workers. The last thousand are kept for an hour.

write_when_full()
local number = call('INCR', ns .. 'order')
call('RPUSH', ns .. 'orders', ARGV[1])
call('LTRIM', ns .. 'orders', -1000, -1)
call('EXPIRE', ns .. 'orders', 3600)
call('PUBLISH', ARGV[2], number)
return number
