//! What a declaration in the table is made of, and what is made of it.

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::labels::Label;

/// Upper bounds of latency buckets, in seconds: L1 hits in the first, deadlines in the last.
const LATENCY_SECONDS: [f64; 12] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// Metrics that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// What they are about.
    pub title: &'static str,
    /// Them.
    pub metrics: &'static [Metric],
}

/// A metric, as it is declared.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Whether it is a counter, a gauge or a histogram.
    pub kind: &'static str,
    /// What it counts, or the unit of what it measures.
    pub unit: &'static str,
    /// What tells its series apart, in the order in which the values are given.
    pub labels: &'static [Label],
    /// What it means, as `/metrics` says it.
    pub help: &'static str,
}

impl Metric {
    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    /// Makes the metric, and lets the registry know of it.
    pub(super) fn register<K: Kind>(&self, registry: &Registry) -> prometheus::Result<K> {
        let made = K::make(self)?;
        registry.register(Box::new(made.clone()))?;
        Ok(made)
    }
}

/// A type of metrics that the table can declare.
pub(super) trait Kind: Collector + Clone + 'static {
    /// What Prometheus calls it.
    const NAME: &'static str;

    /// The metric of a declaration.
    fn make(metric: &Metric) -> prometheus::Result<Self>;
}

impl Kind for IntCounter {
    const NAME: &'static str = "counter";

    fn make(metric: &Metric) -> prometheus::Result<Self> {
        Self::with_opts(metric.opts())
    }
}

impl Kind for IntGauge {
    const NAME: &'static str = "gauge";

    fn make(metric: &Metric) -> prometheus::Result<Self> {
        Self::with_opts(metric.opts())
    }
}

impl Kind for IntCounterVec {
    const NAME: &'static str = "counter";

    fn make(metric: &Metric) -> prometheus::Result<Self> {
        Self::new(metric.opts(), &metric.label_names())
    }
}

impl Kind for IntGaugeVec {
    const NAME: &'static str = "gauge";

    fn make(metric: &Metric) -> prometheus::Result<Self> {
        Self::new(metric.opts(), &metric.label_names())
    }
}

impl Kind for GaugeVec {
    const NAME: &'static str = "gauge";

    fn make(metric: &Metric) -> prometheus::Result<Self> {
        Self::new(metric.opts(), &metric.label_names())
    }
}

impl Kind for HistogramVec {
    const NAME: &'static str = "histogram";

    fn make(metric: &Metric) -> prometheus::Result<Self> {
        Self::new(HistogramOpts::from(metric.opts()).buckets(LATENCY_SECONDS.to_vec()), &metric.label_names())
    }
}

/// Makes `Metrics` and `SECTIONS` of declarations: `/// help`, then `field: Type = "name", "unit", [labels];`.
macro_rules! table {
    (@metric $kind:ident, $name:literal, $unit:literal, [$($label:expr),*], $($help:literal),+) => {
        $crate::telemetry::metrics::declare::Metric {
            name: $name,
            kind: <prometheus::$kind as $crate::telemetry::metrics::declare::Kind>::NAME,
            unit: $unit,
            labels: const { &[$($label),*] },
            help: concat!($($help),+).trim_ascii(),
        }
    };
    ($($title:literal { $(
        $(#[doc = $help:literal])+
        $field:ident: $kind:ident = $name:literal, $unit:literal, [$($label:expr),* $(,)?];
    )* })*) => {
        /// All metrics of an instance.
        pub struct Metrics {
            pub(super) registry: prometheus::Registry,
            $($(
                #[doc = concat!($($help),+, " `", $name, "`")]
                pub $field: prometheus::$kind,
            )*)*
        }

        /// All declarations.
        pub const SECTIONS: &[$crate::telemetry::metrics::declare::Section] = &[$(
            $crate::telemetry::metrics::declare::Section {
                title: $title,
                metrics: &[$(table!(@metric $kind, $name, $unit, [$($label),*], $($help),+)),*],
            }
        ),*];

        impl Metrics {
            /// All metrics that are declared, registered.
            pub(super) fn declared() -> prometheus::Result<Self> {
                let registry = prometheus::Registry::new();
                $($(
                    let $field = table!(@metric $kind, $name, $unit, [$($label),*], $($help),+).register(&registry)?;
                )*)*
                Ok(Self { registry, $($($field,)*)* })
            }
        }
    };
}

pub(super) use table;
