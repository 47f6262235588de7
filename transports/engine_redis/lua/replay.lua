-- ARGV: ids. Puts dead letters back into their queues, unless a message of that id is alive. Returns how many.

local function remove(id)
  uncount_dead(id)
  call('HDEL', ns .. 'letters', id)
  call('HDEL', ns .. 'bodies', id)
  call('ZREM', ns .. 'dead', id)
end

local ready = {}
local count = 0
for _, id in ipairs(ARGV) do
  local letter = call('HGET', ns .. 'letters', id)
  local deliveries, line = string.match(letter or '', '^%S+ (%d+) %d+ ([^\n]*)\n')
  if line and call('HEXISTS', messages, id) == 0 then
    local order = digits(numbers(1))
    call('HSET', messages, id, order .. ' ' .. line .. '\n' .. call('HGET', ns .. 'bodies', id))
    call('HSET', ns .. 'tallies', id, tonumber(deliveries) + 1 .. ' 0')
    remove(id)
    ready[line] = ready[line] or {}
    table.insert(ready[line], entry_of(order, id))
    count = count + 1
  end
end
append(ready)
return count
