//! What runs inside Redis, where reading and deciding must be one step.
//!
//! `KEYS` are the entry and the lease of one key, which share a slot of a cluster. What needs the entry alone names it alone:
//! while a slot moves to another node, commands on two keys are refused. Scripts are sent whole with every call: there is no
//! state in the server that a restart or a flush could take away.

use super::codec::{HEAD_BYTES, STAMP, STAMP_SYSTEM_BYTES};

/// A script and how many of the keys it is given.
pub struct Script {
    /// What is run.
    pub text: &'static str,
    /// 1: the entry; 2: the lease as well.
    pub keys: u8,
}

// The scripts have these numbers in them; Lua counts from one.
const _: () = assert!(STAMP.start == 4 && STAMP.end == 25 && STAMP_SYSTEM_BYTES == 9 && HEAD_BYTES == 41);

/// Ends a lease that is the caller's, and wakes those who wait. A lease is a mark, whether anybody waits, and a token.
macro_rules! release {
    () => {
        "local lease = redis.call('GET', KEYS[2])
if lease and lease:sub(2) == ARGV[1] then
  redis.call('DEL', KEYS[2])
  if lease:sub(1, 1) == '1' then redis.pcall('PUBLISH', ARGV[2], ARGV[3]) end
end
"
    };
}

/// The entry and how long it will be kept, of one moment.
///
/// Returns milliseconds and the value.
pub const LOOK: Script = Script { keys: 1, text: "return {redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[1])}" };

/// Removes an entry that is of no use, unless another one took its place.
///
/// `ARGV`: its head.
pub const REMOVE: Script = Script {
    keys: 1,
    text: "if redis.call('GETRANGE', KEYS[1], 0, 40) == ARGV[1] then redis.call('DEL', KEYS[1]) end",
};

/// Takes the lease, unless there is an entry that the caller has not seen, or somebody else has it. Every lease ends, even one
/// that lost its end to whoever meddles with keys.
///
/// `ARGV`: the head that was seen, the token, milliseconds. Returns 0: it is yours; 1: an entry, as
/// [`LOOK`] does; 2: it is taken for so many milliseconds, by whom the beginning of this token says.
pub const LEAD: Script = Script {
    keys: 2,
    text: "local head = redis.call('GETRANGE', KEYS[1], 0, 40)
if head ~= '' and head ~= ARGV[1] then
  return {1, redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[1])}
end
if redis.call('SET', KEYS[2], '0' .. ARGV[2], 'NX', 'PX', ARGV[3]) then return {0, 0, ''} end
redis.call('SETRANGE', KEYS[2], 0, '1')
if redis.call('PTTL', KEYS[2]) < 0 then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return {2, redis.call('PTTL', KEYS[2]), redis.call('GETRANGE', KEYS[2], 1, 128)}",
};

/// Stores an entry, unless the one that is there was told more, and ends the lease. Bytes are compared one by one: the order
/// of strings in Lua is that of the server's language.
///
/// `ARGV`: token, channel, name, value, milliseconds.
pub const PUT: Script = Script {
    keys: 2,
    text: concat!(
        "local kept, own = redis.call('GETRANGE', KEYS[1], 4, 24), ARGV[4]:sub(5, 25)
local is_newer = false
if #kept == #own then
  is_newer = kept:byte(1) > own:byte(1)
  if kept:sub(1, 9) == own:sub(1, 9) then
    for at = 10, #own do
      if kept:byte(at) ~= own:byte(at) then
        is_newer = kept:byte(at) > own:byte(at)
        break
      end
    end
  end
end
local stored = 0
if not is_newer then stored = redis.pcall('SET', KEYS[1], ARGV[4], 'PX', ARGV[5]) end
",
        release!(),
        "return stored"
    ),
};

/// Ends a lease without an entry.
///
/// `ARGV`: token, channel, name.
pub const RELEASE: Script = Script { keys: 2, text: release!() };
