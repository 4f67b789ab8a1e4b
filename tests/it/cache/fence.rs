//! The rules of [`mainstay::cache::fence`] one by one, and the interleavings that have shown what a rule has to be.

use std::time::{Duration, Instant};

use mainstay::cache::fence::{Fences, Ledger, Message, SilenceLimits, Standing, Ticket};
use mainstay::cache::tag::Tag;
use mainstay::position::{Lsn, Position, SystemId, Timeline};

fn at(lsn: u64) -> Position {
    Position { lsn: Lsn(lsn), ..Position::start_of(SystemId(7), Timeline(1)) }
}

fn message(lsn: u64, prev: u64, soft: &[&str]) -> Message {
    Message {
        at: at(lsn),
        reads: Some(at(lsn)),
        prev: Some(at(prev)),
        through: at(lsn - 1),
        cursor: String::new(),
        soft: soft.iter().map(|tag| Tag::new(*tag)).collect(),
        hard: Vec::new(),
        purges: Vec::new(),
    }
}

/// Begun at 100, and told once, at 110, that all is well.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(4);
    ledger.begin(at(100), Some(at(100)));
    ledger.apply(&message(110, 90, &[]));
    learn(&mut ledger, &[]);
    ledger
}

fn learn(ledger: &mut Ledger, purges: &[(&str, u64)]) {
    let gaps = ledger.gaps();
    ledger.learn_hard(purges.iter().map(|(tag, lsn)| (Tag::new(*tag), at(*lsn))), gaps);
}

fn standing(ledger: &Ledger, told: u64, tag: &str) -> Standing {
    ledger.standing(Some(at(told)), None, &[Tag::new(tag)])
}

#[test]
fn what_was_told_before_a_purge_falls_and_what_was_told_after_it_stands() {
    let mut ledger = ledger();
    let before = ledger.ticket(&[Tag::new("a")]);
    assert_eq!(before, Ticket { told: Some(at(110)), reads: Some(at(100)), is_local: false });
    assert!(ledger.apply(&message(120, 90, &["a"])).purged);
    assert_eq!(standing(&ledger, 110, "a"), Standing::Purged);
    assert_eq!(standing(&ledger, 110, "b"), Standing::Current);
    assert_eq!(standing(&ledger, 120, "a"), Standing::Current);
    assert_eq!(ledger.ticket(&[Tag::new("a")]).reads, Some(at(120)), "whoever fills reads past the fence");
    assert_eq!(ledger.ticket(&[Tag::new("b")]).reads, Some(at(100)));
}

/// Who tells others what was purged has to know when that cannot be known.
#[test]
fn what_cannot_be_gone_on_from_is_a_loss_to_who_had_caught_up() {
    let mut late = Ledger::new(4);
    late.begin(at(100), Some(at(100)));
    // The backlog, with a gap in it, and the first that is told since.
    for heard in [message(80, 70, &["a"]), message(95, 90, &["a"]), message(110, 95, &[])] {
        late.apply(&heard);
    }
    assert!(late.is_caught_up());
    assert_eq!(late.losses(), 0, "others were there");

    let mut ledger = ledger();
    ledger.apply(&message(120, 90, &["a"]));
    assert_eq!(ledger.losses(), 0);
    ledger.apply(&message(140, 130, &[]));
    assert_eq!(ledger.losses(), 1, "a message was missed");
    ledger.enter(SystemId(7), Timeline(2));
    assert_eq!(ledger.losses(), 2, "the primary is another");
    let first = Position { timeline: Timeline(2), ..at(150) };
    ledger.apply(&Message { at: first, reads: Some(first), prev: Some(first), ..message(150, 150, &[]) });
    assert_eq!(ledger.losses(), 2, "which begins with a gap");
}

#[test]
fn a_message_that_was_missed_is_noticed_by_the_next_one() {
    let mut ledger = ledger();
    let applied = ledger.apply(&message(140, 130, &[]));
    assert!(applied.gap && applied.purged);
    assert_eq!(standing(&ledger, 110, "a"), Standing::Forbidden, "it may have been purged for good");
    learn(&mut ledger, &[]);
    assert_eq!(standing(&ledger, 110, "a"), Standing::Purged);
    assert_eq!(standing(&ledger, 130, "a"), Standing::Current, "another instance had heard it");
    assert_eq!(ledger.floor(), Some(at(130)));
    assert!(!ledger.apply(&Message { through: at(120), ..message(150, 130, &[]) }).gap, "once is enough");
}

#[test]
fn a_message_that_comes_late_is_taken_as_told_now() {
    let mut ledger = ledger();
    ledger.apply(&message(130, 90, &[]));
    let ticket = ledger.ticket(&[Tag::new("a")]);
    assert!(ledger.apply(&message(120, 90, &["a"])).purged);
    assert_eq!(ledger.standing(ticket.told, None, &[Tag::new("a")]), Standing::Purged);
    assert_eq!(ledger.ticket(&[Tag::new("a")]).reads, Some(at(120)));
    assert_eq!(ledger.standing(ledger.told(), None, &[Tag::new("a")]), Standing::Current);
}

#[test]
fn a_new_timeline_purges_all_and_an_old_one_is_not_listened_to() {
    let mut ledger = ledger();
    ledger.apply(&Message { hard: vec![Tag::new("h")], ..message(115, 90, &[]) });
    assert!(ledger.enter(SystemId(7), Timeline(2)));
    assert!(!ledger.enter(SystemId(7), Timeline(1)));
    assert_eq!(standing(&ledger, 115, "a"), Standing::Purged);
    assert_eq!(standing(&ledger, 110, "h"), Standing::Forbidden, "for good");
    assert!(ledger.apply(&message(500, 90, &["a"])).foreign);
    assert_eq!(ledger.floor(), Some(on(2, 115)), "a standby may be on it and not yet past what was told");
    ledger.apply(&Message { at: on(2, 60), reads: Some(on(2, 60)), prev: Some(on(2, 50)), ..message(60, 50, &[]) });
    assert_eq!(ledger.floor(), Some(on(2, 50)), "what was told past the promotion is lost");
}

#[test]
fn what_others_filled_counts_once_all_before_the_start_was_heard() {
    let mut ledger = Ledger::new(4);
    ledger.begin(at(100), Some(at(100)));
    assert_eq!(standing(&ledger, 95, "a"), Standing::Forbidden, "it may have been purged for good");
    learn(&mut ledger, &[("h", 96)]);
    assert_eq!(standing(&ledger, 95, "h"), Standing::Forbidden);
    assert_eq!(standing(&ledger, 95, "a"), Standing::Unknown);
    ledger.apply(&message(92, 90, &["a"]));
    learn(&mut ledger, &[]);
    assert_eq!(standing(&ledger, 95, "a"), Standing::Unknown);
    ledger.apply(&message(97, 92, &["b"]));
    assert_eq!(standing(&ledger, 95, "b"), Standing::Purged);
    ledger.apply(&message(102, 97, &[]));
    assert_eq!(standing(&ledger, 95, "a"), Standing::Current);
    assert_eq!(standing(&ledger, 91, "a"), Standing::Purged);
    assert_eq!(standing(&ledger, 89, "c"), Standing::Purged, "what came before the backlog is not known");
}

#[test]
fn the_fences_of_too_many_tags_become_one() {
    let mut ledger = ledger();
    for (index, tag) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let lsn = 120 + 10 * u64::try_from(index).unwrap();
        ledger.apply(&message(lsn, if index == 0 { 90 } else { lsn - 10 }, &[tag]));
    }
    assert!(ledger.tags() <= 4, "{}", ledger.tags());
    assert_eq!(standing(&ledger, 119, "a"), Standing::Purged);
    assert_eq!(standing(&ledger, 119, "z"), Standing::Purged, "nobody knows any more");
    assert_eq!(standing(&ledger, 160, "a"), Standing::Current);
}

#[test]
fn silence_claims_nothing() {
    let fences = Fences::new(4, SilenceLimits { max: Duration::from_secs(2), hard_max: Some(Duration::from_secs(60)) });
    fences.change(|ledger| ledger.begin(at(100), None));
    fences.change(Ledger::give_up_hard);
    let (start, secs) = (Instant::now(), Duration::from_secs);
    let standing = |age, after| fences.standing(|| (Some(at(100)), None), &[], 0, secs(age), start + secs(after)).0;
    assert_eq!(standing(500, 500), Standing::Current, "nobody is to tell anything");
    fences.apply(&message(110, 90, &[]), start);
    assert_eq!(standing(9, 1), Standing::Current);
    assert_eq!(standing(9, 3), Standing::Unknown);
    assert_eq!(standing(1, 3), Standing::Current, "it was read a moment ago");
    assert_eq!(standing(90, 90), Standing::Forbidden);
    fences.apply(&message(120, 90, &[]), start + secs(90));
    assert_eq!(standing(90, 91), Standing::Current);
}

fn on(timeline: u32, lsn: u64) -> Position {
    Position { timeline: Timeline(timeline), ..at(lsn) }
}

#[test]
fn what_an_instance_tells_itself_breaks_no_chain() {
    let mut ledger = ledger();
    assert!(!ledger.apply(&message(120, 90, &["a"])).gap);
    // The stream is silent. What is read meanwhile is purged, and the stream goes on from where it was.
    assert!(!ledger.apply(&Message { prev: None, ..message(130, 0, &["b"]) }).gap);
    assert!(!ledger.apply(&message(125, 120, &["b"])).gap);
    assert!(!ledger.apply(&message(140, 125, &[])).gap);
}

#[test]
fn that_a_later_position_was_heard_does_not_prove_an_earlier_message_heard() {
    // 130 is told by itself, from a look at the feed that did not see what the message at 125 tells of.
    let mut ledger = ledger();
    ledger.apply(&Message { prev: None, through: at(118), ..message(130, 0, &[]) });
    let filled = ledger.told();
    assert!(ledger.apply(&Message { through: at(119), ..message(140, 125, &[]) }).gap, "125 was not heard");
    learn(&mut ledger, &[]);
    assert_eq!(ledger.standing(filled, None, &[Tag::new("a")]), Standing::Purged, "though its stamp is past 125");
}

#[test]
fn a_stamp_of_one_who_was_told_out_of_order_does_not_vouch_for_what_a_replica_had_read() {
    // Another instance had been told of 130 and not of 120 when it asked a replica that had read up to 115.
    let mut ledger = ledger();
    ledger.apply(&message(120, 90, &["a"]));
    let standing = |as_of| ledger.standing(Some(at(130)), as_of, &[Tag::new("a")]);
    assert_eq!(standing(Some(at(115))), Standing::Purged);
    assert_eq!(standing(Some(at(120))), Standing::Current);
    assert_eq!(standing(None), Standing::Current, "from the primary");
}

#[test]
fn a_stamp_past_what_was_heard_is_for_this_instance_alone() {
    let mut ledger = ledger();
    ledger.purge_here(&[Tag::new("a")], None, false);
    let ticket = ledger.ticket(&[Tag::new("a")]);
    assert!(ticket.is_local, "110 and a bit is nobody's position: another message may stand there");
    assert_eq!(ledger.standing(ticket.told, None, &[Tag::new("a")]), Standing::Current);
    ledger.apply(&message(120, 90, &[]));
    assert!(!ledger.ticket(&[Tag::new("a")]).is_local);
}

#[test]
fn what_others_filled_since_this_instance_began_must_have_read_past_its_start_too() {
    // Another instance heard 105 from a publisher that had looked before a commit at 98, which this one begins after.
    let mut ledger = Ledger::new(4);
    ledger.begin(at(100), Some(at(100)));
    learn(&mut ledger, &[]);
    let standing = |ledger: &Ledger, as_of| ledger.standing(Some(at(105)), Some(at(as_of)), &[Tag::new("a")]);
    assert_eq!(standing(&ledger, 97), Standing::Unknown);
    assert_eq!(standing(&ledger, 100), Standing::Current);
    ledger.apply(&message(110, 90, &[]));
    assert_eq!(standing(&ledger, 97), Standing::Current, "all before the start is told by now, and spared it");
}

#[test]
fn what_was_filled_on_a_timeline_that_is_not_known_here_is_not_claimed() {
    let ledger = ledger();
    assert_eq!(ledger.standing(Some(on(2, 50)), None, &[Tag::new("a")]), Standing::Unknown);
}

#[test]
fn purges_for_good_survive_a_change_of_clock_and_forbid_nothing_that_is_newer() {
    let mut ledger = ledger();
    ledger.apply(&Message { hard: vec![Tag::new("h"), Tag::new("*")], ..message(115, 90, &[]) });
    let other = Position { system: SystemId(8), ..at(5) };
    ledger.begin(other, Some(other));
    assert_eq!(standing(&ledger, 110, "h"), Standing::Forbidden);
    assert_eq!(ledger.standing(Some(other), None, &[Tag::new("h")]), Standing::Current);
}

#[test]
fn who_never_heard_the_stream_vouches_for_nothing_older_than_itself() {
    let mut ledger = Ledger::new(4);
    ledger.begin(at(100), Some(at(100)));
    assert!(ledger.apply(&Message { prev: None, through: at(105), ..message(110, 0, &[]) }).gap);
    learn(&mut ledger, &[]);
    assert_eq!(standing(&ledger, 95, "a"), Standing::Purged);
    assert_eq!(standing(&ledger, 100, "a"), Standing::Current);
}

#[test]
fn purges_for_good_that_were_asked_for_before_a_gap_do_not_close_it() {
    let mut ledger = ledger();
    let asked = ledger.gaps();
    assert!(ledger.apply(&message(140, 130, &[])).gap);
    ledger.learn_hard([], asked);
    assert_eq!(standing(&ledger, 110, "a"), Standing::Forbidden);
    learn(&mut ledger, &[]);
    assert_eq!(standing(&ledger, 110, "a"), Standing::Purged);
}

#[test]
fn a_flush_for_good_is_learnt_like_any_other_purge() {
    let mut ledger = ledger();
    learn(&mut ledger, &[("*", 105)]);
    assert_eq!(standing(&ledger, 104, "a"), Standing::Forbidden);
    assert_eq!(standing(&ledger, 105, "a"), Standing::Current);
}
