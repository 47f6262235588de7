-- ARGV: limit, queue or "", "1" when a queue is given.
-- Returns {due, line, id, body} of delayed messages, soonest first.

local limit = tonumber(ARGV[1])
local found = {}
for _, line in ipairs(call('ZRANGE', ns .. 'due', 0, -1)) do
  if ARGV[3] == '0' or queue_of(line) == ARGV[2] then
    local entries = call('ZRANGE', ns .. 'delayed:' .. line, 0, limit - 1, 'WITHSCORES')
    for i = 1, #entries, 2 do
      local _, id = read_entry(entries[i])
      found[#found + 1] = {entries[i + 1], line, id or entries[i]}
    end
  end
end
table.sort(found, function(a, b) return tonumber(a[1]) < tonumber(b[1]) end)
local chosen = {}
for i = 1, math.min(limit, #found) do
  local _, _, body = read(call('HGET', messages, found[i][3]) or '')
  found[i][4] = body or ''
  chosen[i] = found[i]
end
return chosen
