-- Stands before every other script here.
--
-- KEYS[1] is "{namespace}:". All other keys are made from it, because which queues and priorities are touched is known
-- from the data only. Its hash tag puts them all into one slot, the slot of KEYS[1].
--
-- A script is not rolled back when a command in it fails. So scripts read first, and what may be refused comes first.

local call = redis.call
local ns = KEYS[1]
local messages = ns .. 'messages'

-- A script may go on writing when Redis is out of memory if its first write is one that cannot need memory.
local function write_when_full()
  call('DEL', ns .. 'none')
end

-- unpack() of some thousands of values fails ("too many results to unpack").
local SLICE = 1000

local function sliced(command, key, values)
  for from = 1, #values, SLICE do
    call(command, key, unpack(values, from, math.min(from + SLICE - 1, #values)))
  end
end

local function read_sliced(command, key, names)
  if #names == 0 then
    return {}
  end
  if #names <= SLICE then
    return call(command, key, unpack(names))
  end
  local found = {}
  for from = 1, #names, SLICE do
    for _, value in ipairs(call(command, key, unpack(names, from, math.min(from + SLICE - 1, #names)))) do
      found[#found + 1] = value
    end
  end
  return found
end

local function time()
  local now = call('TIME')
  return now[1] + now[2] / 1000000
end

-- Takes the next n numbers; returns the first. One counter numbers messages, claims and dead letters.
local function numbers(n)
  return call('INCRBY', ns .. 'number', n) - n + 1
end

-- Numbers as text: tostring() writes 1e+14.
local function digits(number)
  return string.format('%.0f', number)
end

-- A line is "priority:queue": the messages of one queue and priority.
local function queue_of(line)
  return string.sub(line, 3)
end

local function ring(queue)
  local bell = ns .. 'bell:' .. queue
  if call('EXISTS', bell) == 0 then
    call('LPUSH', bell, 1)
  end
end

-- Notes that a line may have ready messages: 'lines' holds the priorities of each queue that has any.
local function open(line)
  local priority, queue = string.sub(line, 1, 1), queue_of(line)
  local known = call('HGET', ns .. 'lines', queue) or ''
  if not string.find(known, priority, 1, true) then
    call('HSET', ns .. 'lines', queue, known .. priority)
  end
end

-- Notes that a line has none. A bell that rings for a queue without any would wake somebody for nothing.
local function close(line)
  local priority, queue = string.sub(line, 1, 1), queue_of(line)
  local rest = string.gsub(call('HGET', ns .. 'lines', queue) or '', priority, '')
  if rest == '' then
    call('HDEL', ns .. 'lines', queue)
    call('DEL', ns .. 'bell:' .. queue)
  else
    call('HSET', ns .. 'lines', queue, rest)
  end
  call('HDEL', ns .. 'void', line)
end

-- An id in its short form is a UUID: 255, which no text in UTF-8 has, and its 16 bytes. Any other is text.
--
-- An entry of a line is "number id", without the space where the id is short; the message is "number line\nbody". An
-- entry counts only while both numbers are the same: that is how one is taken out of the middle of a list, which is as
-- long as it likes, without a search.
local function entry_of(number, id)
  local is_short = #id == 17 and string.byte(id) == 255
  return number .. (is_short and '' or ' ') .. id
end

local SHORT_ENTRY = '^(%d+)(\255' .. string.rep('.', 16) .. ')$'

-- Returns number and id of an entry, or nothing for what is none of ours.
local function read_entry(entry)
  local number, id = string.match(entry, SHORT_ENTRY)
  if number then
    return number, id
  end
  return string.match(entry, '^(%d+) (.+)$')
end

local function append(entries_by_line)
  for line, entries in pairs(entries_by_line) do
    sliced('RPUSH', ns .. 'ready:' .. line, entries)
    open(line)
    ring(queue_of(line))
  end
end

local function delay(entry, line, due)
  call('ZADD', ns .. 'delayed:' .. line, due, entry)
  local first = call('ZSCORE', ns .. 'due', line)
  if not first or tonumber(due) < tonumber(first) then
    call('ZADD', ns .. 'due', due, line)
    -- Whoever sleeps must learn that it has to get up earlier.
    ring(queue_of(line))
  end
end

local function set_due(line)
  local first = call('ZRANGE', ns .. 'delayed:' .. line, 0, 0, 'WITHSCORES')
  if first[2] then
    call('ZADD', ns .. 'due', first[2], line)
  else
    call('ZREM', ns .. 'due', line)
  end
end

-- Returns number, line and body of a message, or nothing for what is none of ours.
local function read(message)
  return string.match(message, '^(%d+) (%d:[^\n]*)\n(.*)$')
end

-- Returns deliveries and crashes of a message: kept only for those that are not 1 and 0.
local function tally(id)
  local kept = call('HGET', ns .. 'tallies', id)
  if not kept then
    return 1, 0
  end
  local deliveries, crashes = string.match(kept, '^(%d+) (%d+)$')
  return tonumber(deliveries) or 1, tonumber(crashes) or 0
end

-- A claim as the engine knows it is "number name"; 'claims:<worker>' holds name -> "number entry-number line[\nid]".
-- The name is the id, or its digest where the id is long: the claim has to be short.
local function claim_name(id)
  return #id <= 40 and id or redis.sha1hex(id)
end

-- Returns the claim's number, the entry's number, the line and the id.
local function read_claim(name, claim)
  local number, order, line, id = string.match(claim, '^(%d+) (%d+) ([^\n]*)\n?(.*)$')
  return number, order, line, id ~= '' and id or name
end

-- Puts claimed messages back at the front of their lines, in their old order. Each is {order, line, id}.
local function give_back(returned)
  table.sort(returned, function(a, b) return a[1] > b[1] end)
  local lines = {}
  for _, item in ipairs(returned) do
    call('LPUSH', ns .. 'ready:' .. item[2], entry_of(digits(item[1]), item[3]))
    lines[item[2]] = true
  end
  for line in pairs(lines) do
    open(line)
    ring(queue_of(line))
  end
end

-- 'letters' holds "died deliveries crashes line\nreason", 'bodies' the body, 'dead' the order in which they died.
local function uncount_dead(id)
  local letter = call('HGET', ns .. 'letters', id)
  if not letter then
    return false
  end
  local line = string.match(letter, '^%S+ %d+ %d+ ([^\n]*)\n')
  if line and call('HINCRBY', ns .. 'deadcounts', queue_of(line), -1) <= 0 then
    call('HDEL', ns .. 'deadcounts', queue_of(line))
  end
  return true
end

local function bury(id, line, deliveries, crashes, reason, body)
  uncount_dead(id)
  local died = string.format('%.6f', time())
  local letter = died .. ' ' .. deliveries .. ' ' .. crashes .. ' ' .. line .. '\n' .. reason
  call('HSET', ns .. 'letters', id, letter)
  call('HSET', ns .. 'bodies', id, body)
  call('ZADD', ns .. 'dead', digits(numbers(1)), id)
  call('HINCRBY', ns .. 'deadcounts', queue_of(line), 1)
  return letter
end

local function is_claimed(id)
  local name = claim_name(id)
  for _, worker in ipairs(call('HKEYS', ns .. 'workers')) do
    local claim = call('HGET', ns .. 'claims:' .. worker, name)
    if claim and select(4, read_claim(name, claim)) == id then
      return true
    end
  end
  return false
end

-- Returns "claimed", "delayed" (with the due time) or "ready".
local function place_of(id, order, line)
  if is_claimed(id) then
    return 'claimed', ''
  end
  local due = call('ZSCORE', ns .. 'delayed:' .. line, entry_of(order, id))
  if due then
    return 'delayed', due
  end
  return 'ready', ''
end

-- Takes a message out that is ready or delayed.
local function withdraw(id, order, line, place)
  if place == 'delayed' then
    call('ZREM', ns .. 'delayed:' .. line, entry_of(order, id))
    set_due(line)
  else
    call('HINCRBY', ns .. 'void', line, 1)
  end
  call('HDEL', messages, id)
  call('HDEL', ns .. 'tallies', id)
end
