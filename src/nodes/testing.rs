//! What the unit tests of this room share.

use std::time::Duration;

use super::minutes::Calendar;
use super::node::{Identity, Kind, Node};
use crate::config::settings::NodeSettings;
use crate::config::units::{Secret, Span};

pub(super) fn settings() -> NodeSettings {
    let span = |seconds| Span(Duration::from_secs(seconds));
    NodeSettings {
        failures_to_open: 3,
        open_time: span(2),
        open_time_max: span(30),
        pick_ttl: span(60),
        pick_margin: 1.25,
        regions: Vec::new(),
        public: false,
        public_token: Secret::default(),
    }
}

pub(super) fn node(kind: Kind) -> Node {
    let identity = Identity { id: "node-1".into(), kind, endpoint: "db.example:5432".to_owned(), region: None };
    Node::new(identity, &settings(), Calendar::of_this_machine())
}
