-- ARGV: producer or "", number, then id, line, due or "", body of each message.
-- The first write is one that Redis refuses when it is out of memory: then nothing was written.

local producer = ARGV[1]
local count = (#ARGV - 2) / 4
local first = numbers(count)

if producer ~= '' then
  local last = call('GET', ns .. 'producer:' .. producer)
  if last and tonumber(last) >= tonumber(ARGV[2]) then
    return 0
  end
  call('SET', ns .. 'producer:' .. producer, ARGV[2], 'EX', 3600)
end

local now
local added = 0
local ready = {}
for i = 0, count - 1 do
  local id, line, due = ARGV[i * 4 + 3], ARGV[i * 4 + 4], ARGV[i * 4 + 5]
  local order = digits(first + i)
  if call('HSETNX', messages, id, order .. ' ' .. line .. '\n' .. ARGV[i * 4 + 6]) == 1 then
    added = added + 1
    local entry = entry_of(order, id)
    if due ~= '' then
      now = now or time()
    end
    if due ~= '' and tonumber(due) > now then
      delay(entry, line, due)
    else
      local entries = ready[line]
      if not entries then
        entries = {}
        ready[line] = entries
      end
      entries[#entries + 1] = entry
    end
  end
end
append(ready)
return added
