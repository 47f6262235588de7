-- ARGV: channel, the time until which it waits (s), then the ids it waits for.
-- Notes who waits, and returns the records that are there. A client that is gone is forgotten by and by.

write_when_full()
local ended = call('ZRANGEBYSCORE', ns .. 'waitends', '-inf', string.format('%.3f', time()), 'LIMIT', 0, 100)
if #ended > 0 then
  call('HDEL', ns .. 'waiting', unpack(ended))
  call('ZREM', ns .. 'waitends', unpack(ended))
end

local function is_final(record)
  return record and string.match(record, '^%S+ %d+ %d+ 11 ')
end

local till = string.format('%.3f', time() + tonumber(ARGV[2]))
local records = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local record = call('GET', ns .. 'result:' .. id)
  records[i - 2] = is_final(record) and record or false
  if not is_final(record) then
    local channels = call('HGET', ns .. 'waiting', id)
    if not channels then
      call('HSET', ns .. 'waiting', id, ARGV[1])
    elseif not string.find(' ' .. channels .. ' ', ' ' .. ARGV[1] .. ' ', 1, true) then
      call('HSET', ns .. 'waiting', id, channels .. ' ' .. ARGV[1])
    end
    call('ZADD', ns .. 'waitends', till, id)
  end
end
return records
