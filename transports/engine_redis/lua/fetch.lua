-- ARGV: worker, limit, the number of the last order seen, then the queues, the one whose turn it is first.
-- Returns {0} for a worker that is not registered, else
-- {1, seconds until the next delayed message or "", number of the last order, orders, number of the first claim,
--  groups, tallies, revoked}: a group is {line, entries, messages}; tallies are {position, "deliveries crashes"}.

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

-- Adds up to want messages of a line to the group; returns how many, and whether that was all.
local function take(line, want, group)
  local key = ns .. 'ready:' .. line
  local taken = 0
  while taken < want and patience > 0 do
    local entries = call('LPOP', key, math.min(want - taken, SLICE))
    if not entries then
      close(line)
      return taken, true
    end
    patience = patience - #entries
    local ids, orders = {}, {}
    for i, entry in ipairs(entries) do
      orders[i], ids[i] = string.match(entry, '^(%d+ )(.+)$')
      ids[i] = ids[i] or ''
    end
    for i, message in ipairs(call('HMGET', messages, unpack(ids))) do
      local order = orders[i]
      if message and order and string.sub(message, 1, #order) == order then
        taken = taken + 1
        table.insert(group[2], entries[i])
        table.insert(group[3], message)
      elseif order then
        pass_over(line)
      else
        foreign(entries[i], line)
      end
    end
  end
  return taken, false
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
      for priority in string.gmatch(known[i], '%d') do
        by_priority[priority] = by_priority[priority] or {}
        table.insert(by_priority[priority], priority .. ':' .. queue)
      end
    end
  end
  return by_priority
end

-- Takes equal shares of the lines until there is enough, or nothing more. Returns how many are still wanted.
local function share(lines, want, groups)
  local own = {}
  for _, line in ipairs(lines) do
    own[line] = {line, {}, {}}
    groups[#groups + 1] = own[line]
  end
  while want > 0 and #lines > 0 and patience > 0 do
    local more = {}
    local each = math.max(1, math.floor(want / #lines))
    for _, line in ipairs(lines) do
      local taken, empty = take(line, math.min(each, want), own[line])
      want = want - taken
      if not empty then
        more[#more + 1] = line
      end
    end
    lines = more
  end
  return want
end

-- What this worker leaves is there for another, who may sleep.
local function ring_for_the_rest(by_priority)
  for _, lines in pairs(by_priority) do
    for _, line in ipairs(lines) do
      if call('EXISTS', ns .. 'ready:' .. line) == 1 then
        ring(queue_of(line))
      end
    end
  end
end

local function claim(groups, count)
  local first = numbers(count)
  local number = first
  local fields = {}
  for _, group in ipairs(groups) do
    local line = group[1]
    for _, entry in ipairs(group[2]) do
      local space = string.find(entry, ' ', 1, true)
      local id = string.sub(entry, space + 1)
      local name = claim_name(id)
      fields[#fields + 1] = name
      fields[#fields + 1] = digits(number) .. ' ' .. string.sub(entry, 1, space) .. line ..
        (name == id and '' or '\n' .. id)
      number = number + 1
    end
  end
  sliced('HSET', ns .. 'claims:' .. worker, fields)
  return first
end

local function ids_of(groups)
  local ids = {}
  for _, group in ipairs(groups) do
    for _, entry in ipairs(group[2]) do
      ids[#ids + 1] = string.sub(entry, string.find(entry, ' ', 1, true) + 1)
    end
  end
  return ids
end

-- What few messages have: earlier deliveries, and revocations.
local function marks(groups)
  local tallies, revoked = {}, {}
  local some_tallies = call('EXISTS', ns .. 'tallies') == 1
  local some_revoked = call('EXISTS', ns .. 'revoked') == 1
  if not some_tallies and not some_revoked then
    return tallies, revoked
  end
  local ids = ids_of(groups)
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
local groups, want = {}, limit
if want > 0 then
  local by_priority = open_lines()
  for priority = 9, 0, -1 do
    local lines = by_priority[tostring(priority)]
    if lines and want > 0 then
      want = share(lines, want, groups)
    end
  end
  if want == 0 or patience <= 0 then
    ring_for_the_rest(by_priority)
  end
end
if want == limit then
  return {1, due, last, orders, 0, {}, {}, {}}
end
local first = claim(groups, limit - want)
local tallies, revoked = marks(groups)
return {1, due, last, orders, first, groups, tallies, revoked}
