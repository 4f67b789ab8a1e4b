//! The rules, each broken by hand in turn: a model that does not notice proves nothing.

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    // What is published, and how.
    FenceBeforeRows,
    FenceIsFlushPosition,
    ThroughIsTheFence,
    AdvanceBeforePublish,
    LossOfRowsUnnoticed,
    OwnFeedHandedOn,
    // What an instance makes of what it hears.
    ChainUnchecked,
    ChainByOrder,
    LateMessageIgnored,
    HardTakenForSoft,
    EvictedFencesForgotten,
    LsnsAlone,
    FreshCursorUnnoticed,
    LearntTooEarly,
    PurgeWithoutFenceForgotten,
    StartFenceBeforeSnapshot,
    // What a fill does.
    StampAtTheEnd,
    ReadAnywhere,
    OldPrimaryRead,
    StandbyBelievedByName,
    LateTagsDropped,
    LateTagsUnchecked,
    LateTagsByReadsAlone,
    OvertakenFillJoined,
    OldFillReplacesNewer,
    // What counts as fresh.
    StampVouchesForReads,
    LocalStampsShared,
    SharedBeforeCaughtUp,
    OwnByStampAlone,
}

/// Those that a walk finds, each with a seed that shows it. The search finds the others.
pub const MUTANTS: [(Mutant, u64); 27] = [
    (Mutant::FenceBeforeRows, 81),
    (Mutant::FenceIsFlushPosition, 123),
    (Mutant::ThroughIsTheFence, 8),
    (Mutant::AdvanceBeforePublish, 1282),
    (Mutant::LossOfRowsUnnoticed, 62236),
    (Mutant::OwnFeedHandedOn, 19187),
    (Mutant::ChainUnchecked, 43),
    (Mutant::ChainByOrder, 1117),
    (Mutant::LateMessageIgnored, 206),
    (Mutant::HardTakenForSoft, 3165),
    (Mutant::EvictedFencesForgotten, 0),
    (Mutant::LsnsAlone, 17),
    (Mutant::FreshCursorUnnoticed, 438),
    (Mutant::LearntTooEarly, 292425),
    (Mutant::StartFenceBeforeSnapshot, 28),
    (Mutant::StampAtTheEnd, 0),
    (Mutant::ReadAnywhere, 0),
    (Mutant::OldPrimaryRead, 114),
    (Mutant::StandbyBelievedByName, 20),
    (Mutant::LateTagsDropped, 10),
    (Mutant::LateTagsUnchecked, 17),
    (Mutant::LateTagsByReadsAlone, 20607),
    (Mutant::OvertakenFillJoined, 39),
    (Mutant::OldFillReplacesNewer, 13),
    (Mutant::StampVouchesForReads, 3920),
    (Mutant::LocalStampsShared, 29084),
    (Mutant::SharedBeforeCaughtUp, 1233),
];
