-- ARGV: worker, limit, the number of the last order seen, then the queues, the one whose turn it is first.
-- Returns {0} for a worker that is not registered, else
-- {1, seconds until the next delayed message or "", number of the last order, orders, number of the first claim,
--  groups, tallies, revoked}: a group is {line, ids, messages}; tallies are {position, "deliveries crashes"}.

local worker, limit = ARGV[1], tonumber(ARGV[2])
write_when_full()
if call('HEXISTS', ns .. 'workers', worker) == 0 then
  return {0}
end

local PROMOTED = 1000

local function promote(now)
  local left = PROMOTED
  for _, line in ipairs(call('ZRANGEBYSCORE', ns .. 'due', '-inf', now, 'LIMIT', 0, 100)) do
    local key = ns .. 'delayed:' .. line
    local entries = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, left)
    if #entries > 0 then
      append({[line] = entries})
      call('ZREMRANGEBYRANK', key, 0, #entries - 1)
      left = left - #entries
    end
    set_due(line)
    if left <= 0 then
      return
    end
  end
end

local function next_due()
  local first = call('ZRANGE', ns .. 'due', 0, 0, 'WITHSCORES')
  if not first[2] then
    return ''
  end
  local now = time()
  if tonumber(first[2]) <= now then
    promote(string.format('%.6f', now))
    first = call('ZRANGE', ns .. 'due', 0, 0, 'WITHSCORES')
  end
  return first[2] and string.format('%.6f', math.max(tonumber(first[2]) - now, 0)) or ''
end

local function foreign(entry, line)
  local id = 'foreign-' .. digits(numbers(1))
  local reason = 'malformed entry: the engine did not put this into ' .. ns .. 'ready:' .. line
  bury(id, line, 1, 0, reason, entry)
end

local function pass_over(line)
  if call('HINCRBY', ns .. 'void', line, -1) <= 0 then
    call('HDEL', ns .. 'void', line)
  end
end

-- Entries that are looked at, however many do not count any more.
local patience = limit + 20 * SLICE

-- What is taken, line by line: {line, ids, messages}, and the entries' numbers.
local groups, group_of, numbers_of = {}, {}, {}

local function add(line, number, id, message)
  local group = group_of[line]
  if not group then
    group = {line, {}, {}}
    groups[#groups + 1], group_of[line], numbers_of[line] = group, group, {}
  end
  local n = #group[2] + 1
  group[2][n], group[3][n], numbers_of[line][n] = id, message, number
end

local function open_lines()
  local queues = {}
  for i = 4, #ARGV do
    queues[#queues + 1] = ARGV[i]
  end
  local known = read_sliced('HMGET', ns .. 'lines', queues)
  local paused = call('EXISTS', ns .. 'paused') == 1 and read_sliced('SMISMEMBER', ns .. 'paused', queues)
  local by_priority = {}
  for i, queue in ipairs(queues) do
    if known[i] and not (paused and paused[i] == 1) then
      for at = 1, #known[i] do
        local priority = string.sub(known[i], at, at)
        local lines = by_priority[priority]
        if not lines then
          lines = {}
          by_priority[priority] = lines
        end
        lines[#lines + 1] = priority .. ':' .. queue
      end
    end
  end
  return by_priority
end

-- What Redis says of a key that holds something else. The other lines go on: what was popped from them is not in its list
-- any more, and an error of this script would lose it.
local broken

-- Pops equal shares of the lines, the first lines one more if it does not come out even. Returns the lines that may
-- have more, and what was popped: entries, their numbers, their ids, their lines.
local function pop(lines, want)
  local rest, popped = {}, {{}, {}, {}, {}}
  local entries, orders, ids, owners = unpack(popped)
  local each, over = math.floor(want / #lines), want % #lines
  local n = 0
  for i, line in ipairs(lines) do
    local count = math.min(each + (i <= over and 1 or 0), SLICE)
    local found = count > 0 and redis.pcall('LPOP', ns .. 'ready:' .. line, count) or {}
    if found.err then
      broken = found
    elseif #found < count then
      close(line)
    else
      rest[#rest + 1] = line
    end
    for _, entry in ipairs(found) do
      local number, id = read_entry(entry)
      n = n + 1
      entries[n], orders[n], ids[n], owners[n] = entry, number, id or '', line
    end
  end
  return rest, popped
end

-- Takes equal shares of the lines until there is enough, or nothing more. Returns how many are still wanted, and the
-- lines that may have more.
local function share(lines, want)
  while want > 0 and #lines > 0 and patience > 0 do
    local popped
    lines, popped = pop(lines, want)
    local entries, orders, ids, owners = unpack(popped)
    patience = patience - #ids
    for i, message in ipairs(read_sliced('HMGET', messages, ids)) do
      local order, line = orders[i], owners[i]
      if not order then
        foreign(entries[i], line)
      elseif message and string.sub(message, 1, #order + 1) == order .. ' ' then
        add(line, order, ids[i], message)
        want = want - 1
      else
        pass_over(line)
      end
    end
  end
  return want, lines
end

-- What this worker leaves is there for another, who may sleep.
local function ring_for_the_rest(lines)
  local bells = {}
  for i, line in ipairs(lines) do
    bells[i] = ns .. 'bell:' .. queue_of(line)
  end
  for from = 1, #bells, SLICE do
    local to = math.min(from + SLICE - 1, #bells)
    if call('EXISTS', unpack(bells, from, to)) <= to - from then
      for i = from, to do
        if call('EXISTS', ns .. 'ready:' .. lines[i]) == 1 then
          ring(queue_of(lines[i]))
        end
      end
    end
  end
end

local function claim(count)
  local first = numbers(count)
  local number = first
  local fields = {}
  for _, group in ipairs(groups) do
    local line, orders = group[1], numbers_of[group[1]]
    for i, id in ipairs(group[2]) do
      local name = claim_name(id)
      fields[#fields + 1] = name
      fields[#fields + 1] = digits(number) .. ' ' .. orders[i] .. ' ' .. line .. (name == id and '' or '\n' .. id)
      number = number + 1
    end
  end
  sliced('HSET', ns .. 'claims:' .. worker, fields)
  return first
end

local function all_ids()
  local ids = {}
  for _, group in ipairs(groups) do
    for _, id in ipairs(group[2]) do
      ids[#ids + 1] = id
    end
  end
  return ids
end

-- What few messages have: earlier deliveries, and revocations.
local function marks()
  local tallies, revoked = {}, {}
  local some_tallies = call('EXISTS', ns .. 'tallies') == 1
  local some_revoked = call('EXISTS', ns .. 'revoked') == 1
  if not some_tallies and not some_revoked then
    return tallies, revoked
  end
  local ids = all_ids()
  if some_tallies then
    for i, kept in ipairs(read_sliced('HMGET', ns .. 'tallies', ids)) do
      if kept then
        tallies[#tallies + 1] = i - 1
        tallies[#tallies + 1] = kept
      end
    end
  end
  if some_revoked then
    local now = time()
    for i, till in ipairs(read_sliced('ZMSCORE', ns .. 'revoked', ids)) do
      if till and tonumber(till) > now then
        revoked[#revoked + 1] = i - 1
      end
    end
  end
  return tallies, revoked
end

local function new_orders(last, seen)
  local count = tonumber(last) - tonumber(seen)
  if count <= 0 then
    return {}
  end
  call('HSET', ns .. 'seen', worker, seen)
  return call('LRANGE', ns .. 'orders', -count, -1)
end

local last = call('GET', ns .. 'order') or '0'
local seen = ARGV[3] ~= '' and ARGV[3] or call('HGET', ns .. 'seen', worker) or last
local orders = last == seen and {} or new_orders(last, seen)
local due = next_due()
local want = limit
if want > 0 then
  local by_priority = open_lines()
  local left = {}
  for priority = 9, 0, -1 do
    local lines = by_priority[tostring(priority)]
    if lines then
      want, lines = share(lines, want)
      for _, line in ipairs(lines) do
        left[#left + 1] = line
      end
    end
  end
  ring_for_the_rest(left)
end
if want == limit then
  return broken or {1, due, last, orders, 0, {}, {}, {}}
end
local first = claim(limit - want)
local tallies, revoked = marks()
return {1, due, last, orders, first, groups, tallies, revoked}
