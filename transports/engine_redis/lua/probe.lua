-- Tries each command that the other scripts use, on a key that nothing else uses. Returns an error naming the first one
-- that this user may not run.

local key = ns .. 'probe'
local CHANNEL = ns .. 'probe'
local TRIED = {
  {'DEL', key}, {'TIME'}, {'EXISTS', key},
  {'SET', key, 1, 'PX', 1000}, {'GET', key}, {'GETRANGE', key, 0, 1}, {'INCRBY', key, 1}, {'INCR', key}, {'DEL', key},
  {'RPUSH', key, 1}, {'LPUSH', key, 1}, {'LLEN', key}, {'LRANGE', key, 0, 1}, {'LPOP', key, 1}, {'LTRIM', key, 0, 1},
  {'EXPIRE', key, 10}, {'DEL', key},
  {'HSET', key, 'a', 1}, {'HSETNX', key, 'a', 1}, {'HGET', key, 'a'}, {'HMGET', key, 'a'}, {'HGETALL', key},
  {'HKEYS', key}, {'HEXISTS', key, 'a'}, {'HINCRBY', key, 'a', 1}, {'HSCAN', key, 0}, {'HDEL', key, 'a'},
  {'ZADD', key, 1, 'a'}, {'ZSCORE', key, 'a'}, {'ZMSCORE', key, 'a'}, {'ZCARD', key}, {'ZRANGE', key, 0, 1},
  {'ZREVRANGE', key, 0, 1}, {'ZRANGEBYSCORE', key, 0, 1}, {'ZREM', key, 'a'}, {'ZPOPMIN', key, 1},
  {'ZREMRANGEBYRANK', key, 0, 1}, {'ZREMRANGEBYSCORE', key, 0, 1}, {'DEL', key},
  {'SADD', key, 'a'}, {'SISMEMBER', key, 'a'}, {'SMISMEMBER', key, 'a'}, {'SMEMBERS', key}, {'SREM', key, 'a'},
  {'PUBLISH', CHANNEL, ''},
}

for _, command in ipairs(TRIED) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply.err then
    if string.find(reply.err, 'The user executing the script') then
      return redis.error_reply('NOPERM in a script, ' .. command[1] .. ' ' .. (command[2] or '') .. ': ' .. reply.err)
    end
    return reply
  end
end
return 1
