-- ARGV: until when, then ids. Takes out what is ready or delayed.
-- Returns {id, line, place, due, body} of each message that was.

write_when_full()
local found = {}
call('ZREMRANGEBYSCORE', ns .. 'revoked', '-inf', string.format('%.3f', time()))
for i = 2, #ARGV do
  local id = ARGV[i]
  call('ZADD', ns .. 'revoked', 'GT', ARGV[1], id)
  local order, line, body = read(call('HGET', messages, id) or '')
  if order then
    local place, due = place_of(id, order, line)
    if place ~= 'claimed' then
      withdraw(id, order, line, place)
      found[#found + 1] = {id, line, place, due, body}
    end
  end
end
return found
