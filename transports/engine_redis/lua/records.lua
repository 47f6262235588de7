-- Stands before the scripts that keep records.
--
-- 'result:<id>' is "sent retries deliveries flags length-of-state\nstate body"; flags are two digits: final, kept.
-- One that asks for removal stays as a mark, without state and body, so that an older run cannot come back.

local function order_of(record)
  local sent, retries, deliveries, flags = string.match(record, '^(%S+) (%d+) (%d+) (%d%d) ')
  return tonumber(sent), tonumber(retries), tonumber(deliveries), flags
end

local function is_older(new, old)
  local sent, retries, deliveries = order_of(new)
  local old_sent, old_retries, old_deliveries = order_of(old)
  if sent ~= old_sent then
    return sent < old_sent
  end
  if retries ~= old_retries then
    return retries < old_retries
  end
  return deliveries < old_deliveries
end

-- Records up to this size are sent along with the word that they are there.
local SMALL = 16384

local function notify(ids, kept)
  if #ids == 0 or call('EXISTS', ns .. 'waiting') == 0 then
    return
  end
  for i, channels in ipairs(read_sliced('HMGET', ns .. 'waiting', ids)) do
    if channels then
      local record = #kept[i] <= SMALL and kept[i] or ''
      for channel in string.gmatch(channels, '%S+') do
        call('PUBLISH', channel, #ids[i] .. ' ' .. ids[i] .. record)
      end
      call('HDEL', ns .. 'waiting', ids[i])
      call('ZREM', ns .. 'waitends', ids[i])
    end
  end
end

-- Stores the record whose arguments (position, id, record) start at this index of ARGV, unless a newer one is there.
-- Returns whether it stored a final one, or nil and an error when the key holds something else.
local function keep_record(from, expires)
  local key, record = ns .. 'result:' .. ARGV[from + 1], ARGV[from + 2]
  local _, _, _, flags = order_of(record)
  if string.sub(flags, 2) == '1' and call('SET', key, record, 'NX', 'PX', expires) then
    return flags == '11'
  end
  local old = redis.pcall('GETRANGE', key, 0, 127)
  if type(old) == 'table' or (old ~= '' and not order_of(old)) then
    return nil, redis.error_reply('FOREIGN the key ' .. key .. ' holds something else')
  end
  if old == '' or is_older(record, old) then
    return false
  end
  call('SET', key, record, 'PX', expires)
  return flags == '11'
end

local function keep_records(indexes, expires)
  local final, kept = {}, {}
  for _, from in ipairs(indexes) do
    local ended, refused = keep_record(from, expires)
    if refused then
      return refused
    end
    if ended then
      final[#final + 1] = ARGV[from + 1]
      kept[#kept + 1] = ARGV[from + 2]
    end
  end
  notify(final, kept)
  return nil
end
