-- ARGV: queue. Deletes some thousand of its ready and delayed messages. Returns {how many, whether there may be more}.

local queue = ARGV[1]
local ENOUGH = 5000
local looked, count = 0, 0

local function delete(entries)
  for _, entry in ipairs(entries) do
    looked = looked + 1
    local order, id = read_entry(entry)
    local message = id and call('HGET', messages, id)
    if message and string.sub(message, 1, #order + 1) == order .. ' ' then
      call('HDEL', messages, id)
      call('HDEL', ns .. 'tallies', id)
      count = count + 1
    end
  end
end

for priority = 0, 9 do
  local line = priority .. ':' .. queue
  repeat
    local entries = looked < ENOUGH and call('LPOP', ns .. 'ready:' .. line, SLICE)
    delete(entries or {})
  until not entries
  repeat
    local page = looked < ENOUGH and call('ZPOPMIN', ns .. 'delayed:' .. line, SLICE) or {}
    local entries = {}
    for i = 1, #page, 2 do
      entries[#entries + 1] = page[i]
    end
    delete(entries)
  until #page == 0
  set_due(line)
  if call('EXISTS', ns .. 'ready:' .. line) == 0 then
    close(line)
  end
end
return {count, looked >= ENOUGH and 1 or 0}
