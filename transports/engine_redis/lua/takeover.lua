-- ARGV: a worker that is dead, its heartbeat when that was found, most crashes, most deliveries.
-- Releases some hundred of its claims. Returns {how many were released, whether there are more, id, letter and body of
-- each dead letter}; nothing is done if the heartbeat has moved.

local worker, most_crashes, most_deliveries = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local key = ns .. 'claims:' .. worker
local ENOUGH = 500

local function some_claims()
  local found, cursor = {}, '0'
  repeat
    local page = call('HSCAN', key, cursor, 'COUNT', ENOUGH)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      found[#found + 1] = {page[2][i], page[2][i + 1]}
    end
  until cursor == '0' or #found >= ENOUGH
  return found, cursor ~= '0'
end

if call('HGET', ns .. 'beats', worker) ~= ARGV[2] then
  return {0, 0}
end
write_when_full()
local claims, more = some_claims()
local released, letters, seen = {}, {0, more and 1 or 0}, {}
for _, claim in ipairs(claims) do
  local name = claim[1]
  if not seen[name] then
    seen[name] = true
    local number, order, line, id = read_claim(name, claim[2])
    local deliveries, crashes = tally(id)
    crashes = crashes + call('SISMEMBER', ns .. 'started:' .. worker, number)
    local reason
    if crashes >= most_crashes then
      reason = 'crash limit: its process died in ' .. crashes .. ' runs'
    elseif deliveries >= most_deliveries then
      reason = 'delivery limit: its worker was lost in ' .. deliveries .. ' deliveries'
    end
    if reason then
      local _, _, body = read(call('HGET', messages, id) or '')
      letters[#letters + 1] = id
      letters[#letters + 1] = bury(id, line, deliveries, crashes, reason, body or '')
      letters[#letters + 1] = body or ''
      call('HDEL', messages, id)
      call('HDEL', ns .. 'tallies', id)
    else
      call('HSET', ns .. 'tallies', id, deliveries + 1 .. ' ' .. crashes)
      released[#released + 1] = {tonumber(order), line, id}
    end
    call('HDEL', key, name)
  end
end
give_back(released)
letters[1] = #released
if not more then
  call('DEL', ns .. 'started:' .. worker)
  for _, hash in ipairs({'workers', 'beats', 'seen'}) do
    call('HDEL', ns .. hash, worker)
  end
end
return letters
