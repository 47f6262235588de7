-- ARGV: limit, queue or "", "1" when a queue is given, most bytes of a body. Returns {id, letter, body}, latest first.

local limit, most = tonumber(ARGV[1]), tonumber(ARGV[4])
local found = {}
local from = 0
while #found < limit do
  local ids = call('ZREVRANGE', ns .. 'dead', from, from + 499)
  if #ids == 0 then
    break
  end
  for _, id in ipairs(ids) do
    local letter = call('HGET', ns .. 'letters', id)
    local line = letter and string.match(letter, '^%S+ %d+ %d+ ([^\n]*)\n')
    if line and #found < limit and (ARGV[3] == '0' or queue_of(line) == ARGV[2]) then
      found[#found + 1] = {id, letter, string.sub(call('HGET', ns .. 'bodies', id) or '', 1, most)}
    end
  end
  from = from + 500
end
return found
