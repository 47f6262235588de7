-- ARGV: worker, its description, then "0", or "1" for a heartbeat and the numbers of the claims of all runs that have
-- begun.
-- Registers the worker if it is not. Returns {"1" if it was not, {worker, description, heartbeat} of all}.

local worker = ARGV[1]
write_when_full()
if ARGV[3] == '1' then
  call('DEL', ns .. 'started:' .. worker)
end
local is_new = call('HSETNX', ns .. 'workers', worker, ARGV[2])
if is_new == 1 then
  call('HSET', ns .. 'seen', worker, call('GET', ns .. 'order') or '0')
end
call('HINCRBY', ns .. 'beats', worker, ARGV[3])
for from = 4, #ARGV, SLICE do
  call('SADD', ns .. 'started:' .. worker, unpack(ARGV, from, math.min(from + SLICE - 1, #ARGV)))
end

local beats = call('HGETALL', ns .. 'beats')
local found = {}
for i = 1, #beats, 2 do
  found[#found + 1] = {beats[i], call('HGET', ns .. 'workers', beats[i]), beats[i + 1]}
end
return {is_new, found}
