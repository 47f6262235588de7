-- ARGV: "1" for all queues, or "0" and names. Returns {queue, ready, delayed, claimed, dead, paused} of each.

local counts = {}
local order = {}
local all = ARGV[1] == '1'

local function of(queue, add)
  local known = counts[queue]
  if not known and (all or add) then
    known = {queue, 0, 0, 0, 0, 0}
    counts[queue] = known
    order[#order + 1] = known
  end
  return known or {queue, 0, 0, 0, 0, 0}
end

for i = 2, #ARGV do
  of(ARGV[i], true)
end

local function each(hash, see)
  local fields = call('HGETALL', hash)
  for i = 1, #fields, 2 do
    see(fields[i], fields[i + 1])
  end
end

each(ns .. 'lines', function(queue, priorities)
  for priority in string.gmatch(priorities, '%d') do
    local line = priority .. ':' .. queue
    local void = tonumber(call('HGET', ns .. 'void', line) or 0)
    local known = of(queue)
    known[2] = known[2] + math.max(call('LLEN', ns .. 'ready:' .. line) - void, 0)
  end
end)
for _, line in ipairs(call('ZRANGE', ns .. 'due', 0, -1)) do
  local known = of(queue_of(line))
  known[3] = known[3] + call('ZCARD', ns .. 'delayed:' .. line)
end
each(ns .. 'workers', function(worker)
  each(ns .. 'claims:' .. worker, function(name, claim)
    local _, _, line = read_claim(name, claim)
    if line then
      local known = of(queue_of(line))
      known[4] = known[4] + 1
    end
  end)
end)
each(ns .. 'deadcounts', function(queue, dead)
  of(queue)[5] = tonumber(dead)
end)
for _, queue in ipairs(call('SMEMBERS', ns .. 'paused')) do
  of(queue)[6] = 1
end
return order
