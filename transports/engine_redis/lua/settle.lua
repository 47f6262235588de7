-- ARGV: worker, how long results are kept (ms) or "", number of claims, number of acknowledged ones (which come
-- first), the claims; then for each other one its kind and arguments; then position, id and record of
-- each record.
--   again: id, line, due or "", body     release: at or "", deliveries to add, crashes to add     dead: reason, crashes to add
-- Returns the positions of the stale claims.

local worker, expires = ARGV[1], ARGV[2]
local count, acks = tonumber(ARGV[3]), tonumber(ARGV[4])
local key = ns .. 'claims:' .. worker
write_when_full()

-- The claims that are held: position -> {name, claim}.
local names, claim_numbers = {}, {}
for i = 1, count do
  local claim = ARGV[4 + i]
  local space = string.find(claim, ' ', 1, true) or #claim
  claim_numbers[i] = string.sub(claim, 1, space)
  names[i] = string.sub(claim, space + 1)
end
local held = count > 0 and read_sliced('HMGET', key, names) or {}
local stale = {}
local seen = {}
for i = 1, count do
  local number = claim_numbers[i]
  if seen[names[i]] or not held[i] or string.sub(held[i], 1, #number) ~= number then
    held[i] = false
    stale[#stale + 1] = i - 1
  else
    seen[names[i]] = true
  end
end

-- Where the arguments of each kind start, and what follows: the records.
local LENGTH = {again = 4, release = 3, dead = 2}
local at = 5 + count
local kinds = {}
for i = acks + 1, count do
  kinds[i] = at
  at = at + 1 + LENGTH[ARGV[at]]
end

local records = {}
for from = at, #ARGV, 3 do
  if held[tonumber(ARGV[from]) + 1] then
    records[#records + 1] = from
  end
end
local refused = keep_records(records, expires)
if refused then
  return refused
end

local ended, ids = {}, {}
for i = 1, acks do
  if held[i] then
    local newline = string.find(held[i], '\n', 1, true)
    ended[#ended + 1] = names[i]
    ids[#ids + 1] = newline and string.sub(held[i], newline + 1) or names[i]
  end
end

local ready, returned = {}, {}
local now = count > acks and time()

local function wait_until(entry, line, due)
  if due ~= '' and tonumber(due) > now then
    delay(entry, line, due)
  else
    ready[line] = ready[line] or {}
    table.insert(ready[line], entry)
  end
end

local end_as = {}

function end_as.again(id, _, _, from)
  local new, line, due, body = ARGV[from], ARGV[from + 1], ARGV[from + 2], ARGV[from + 3]
  if new ~= id then
    call('HDEL', messages, id)
  end
  call('HDEL', ns .. 'tallies', id)
  local order = digits(numbers(1))
  call('HSET', messages, new, order .. ' ' .. line .. '\n' .. body)
  wait_until(entry_of(order, new), line, due)
end

function end_as.release(id, order, line, from)
  local due, more_deliveries, more_crashes = ARGV[from], tonumber(ARGV[from + 1]), tonumber(ARGV[from + 2])
  if more_deliveries + more_crashes > 0 then
    local deliveries, crashes = tally(id)
    call('HSET', ns .. 'tallies', id, deliveries + more_deliveries .. ' ' .. crashes + more_crashes)
  end
  if due == '' then
    returned[#returned + 1] = {tonumber(order), line, id}
    return
  end
  -- It comes behind the others: a new number says so when it is given back one day.
  local _, _, body = read(call('HGET', messages, id) or '')
  if body then
    order = digits(numbers(1))
    call('HSET', messages, id, order .. ' ' .. line .. '\n' .. body)
    wait_until(entry_of(order, id), line, due)
  end
end

function end_as.dead(id, _, line, from)
  local deliveries, crashes = tally(id)
  local _, _, body = read(call('HGET', messages, id) or '')
  bury(id, line, deliveries, crashes + tonumber(ARGV[from + 1]), ARGV[from], body or '')
  ids[#ids + 1] = id
end

for i = acks + 1, count do
  if held[i] then
    local _, order, line, id = read_claim(names[i], held[i])
    ended[#ended + 1] = names[i]
    end_as[ARGV[kinds[i]]](id, order, line, kinds[i] + 1)
  end
end

sliced('HDEL', key, ended)
sliced('HDEL', messages, ids)
if #ids > 0 and call('EXISTS', ns .. 'tallies') == 1 then
  sliced('HDEL', ns .. 'tallies', ids)
end
append(ready)
give_back(returned)
return stale
