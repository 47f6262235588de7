-- ARGV: queue, "1" to pause it or "0" to let it go on.

write_when_full()
if ARGV[2] == '1' then
  return call('SADD', ns .. 'paused', ARGV[1])
end
ring(ARGV[1])
return call('SREM', ns .. 'paused', ARGV[1])
