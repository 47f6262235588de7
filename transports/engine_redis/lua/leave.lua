-- ARGV: worker. Forgets a worker that has no claims left.

call('DEL', ns .. 'started:' .. ARGV[1])
if call('EXISTS', ns .. 'claims:' .. ARGV[1]) == 1 then
  return 0
end
for _, key in ipairs({'workers', 'beats', 'seen'}) do
  call('HDEL', ns .. key, ARGV[1])
end
return 1
