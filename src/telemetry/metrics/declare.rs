//! What a declaration in the table is made of, and what is made of it.

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::proto::{LabelPair, MetricFamily, MetricType};
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::labels::Label;
use crate::telemetry::latency::{Builder, LatencyVec};

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

    /// Forgets the series whose value of a label is not to be kept.
    fn retain(&self, _metric: &Metric, _label: &str, _keep: &dyn Fn(&str) -> bool) {}
}

fn retain<B: MetricVecBuilder>(series: &MetricVec<B>, metric: &Metric, label: &str, keep: &dyn Fn(&str) -> bool) {
    if metric.labels.iter().all(|declared| declared.name != label) {
        return;
    }
    for one in series.collect().iter().flat_map(MetricFamily::get_metric) {
        let value = |name: &str| {
            one.get_label().iter().find(|pair| pair.name() == name).map(LabelPair::value).unwrap_or_default()
        };
        if !keep(value(label)) {
            let values: Vec<&str> = metric.labels.iter().map(|declared| value(declared.name)).collect();
            let _gone_already = series.remove_label_values(&values);
        }
    }
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

    fn retain(&self, metric: &Metric, label: &str, keep: &dyn Fn(&str) -> bool) {
        retain(self, metric, label, keep);
    }
}

impl Kind for IntGaugeVec {
    const NAME: &'static str = "gauge";

    fn make(metric: &Metric) -> prometheus::Result<Self> {
        Self::new(metric.opts(), &metric.label_names())
    }

    fn retain(&self, metric: &Metric, label: &str, keep: &dyn Fn(&str) -> bool) {
        retain(self, metric, label, keep);
    }
}

impl Kind for GaugeVec {
    const NAME: &'static str = "gauge";

    fn make(metric: &Metric) -> prometheus::Result<Self> {
        Self::new(metric.opts(), &metric.label_names())
    }

    fn retain(&self, metric: &Metric, label: &str, keep: &dyn Fn(&str) -> bool) {
        retain(self, metric, label, keep);
    }
}

impl Kind for LatencyVec {
    const NAME: &'static str = "histogram";

    fn make(metric: &Metric) -> prometheus::Result<Self> {
        let labels = metric.label_names().into_iter().map(str::to_owned).collect();
        Self::create(MetricType::HISTOGRAM, Builder, metric.opts().variable_labels(labels))
    }

    fn retain(&self, metric: &Metric, label: &str, keep: &dyn Fn(&str) -> bool) {
        retain(self, metric, label, keep);
    }
}

/// Makes `Metrics` and `SECTIONS` of declarations: `/// help`, then `field: Type = "name", "unit", [labels];`.
macro_rules! table {
    (@metric $kind:ident, $name:literal, $unit:literal, [$($label:expr),*], $($help:literal),+) => {
        $crate::telemetry::metrics::declare::Metric {
            name: $name,
            kind: <$kind as $crate::telemetry::metrics::declare::Kind>::NAME,
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
                pub $field: $kind,
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
            /// Forgets the series whose value of a label is not to be kept, of all metrics that have the label. A request that
            /// is still under way may bring one back.
            pub fn retain(&self, label: &str, keep: impl Fn(&str) -> bool) {
                $($(
                    let declared = table!(@metric $kind, $name, $unit, [$($label),*], $($help),+);
                    $crate::telemetry::metrics::declare::Kind::retain(&self.$field, &declared, label, &keep);
                )*)*
            }

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
