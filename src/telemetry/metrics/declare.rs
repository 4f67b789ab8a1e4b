//! What a declaration in the table is made of, and what is made of it.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::proto::{LabelPair, MetricFamily, MetricType};
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::labels::{Label, ROUTE};
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
}

/// The routes that reloads have dropped. What was under way for them then is still counted when it ends, and must not bring their
/// series back. There are no more of them than manifests have named.
#[derive(Clone, Default)]
pub struct Gone(Arc<RwLock<HashSet<String>>>);

impl Gone {
    /// These are gone as well.
    pub(super) fn add(&self, routes: impl Iterator<Item = String>) {
        self.0.write().extend(routes);
    }

    /// This one is there, whatever was before.
    pub(super) fn forget(&self, route: &str) {
        self.0.write().remove(route);
    }
}

/// The series of a metric, told apart by `N` labels: to give it more or fewer values does not compile.
#[derive(Clone)]
pub struct Labelled<V, const N: usize> {
    series: V,
    /// At which place it has the route among its labels, if it has.
    route: Option<usize>,
    gone: Gone,
}

impl<V, const N: usize> Labelled<V, N> {
    fn new(series: V, metric: &Metric, gone: &Gone) -> Self {
        let route = metric.labels.iter().position(|label| label.name == ROUTE.name);
        Self { series, route, gone: gone.clone() }
    }

    fn route<'a>(&self, values: &[&'a str; N]) -> Option<&'a str> {
        self.route.and_then(|place| values.get(place)).copied()
    }
}

impl<B: MetricVecBuilder, const N: usize> Labelled<MetricVec<B>, N> {
    /// The series of these values, in the order of the table. It takes a look-up under a lock that is hardly ever taken for long. Of
    /// a route that is gone it is one that nobody shows.
    pub fn with_label_values(&self, values: &[&str; N]) -> B::M {
        let Some(route) = self.route(values) else { return self.series.with_label_values(values) };
        // Held meanwhile: a reload says who is gone before it forgets the series that it finds, and who is back before it makes any.
        let gone = self.gone.0.read();
        let series = self.series.with_label_values(values);
        if gone.contains(route) {
            self.remove_label_values(values);
        }
        series
    }

    /// Forgets a series, if it is there.
    pub fn remove_label_values(&self, values: &[&str; N]) {
        let _was_not_there = self.series.remove_label_values(values);
    }

    /// Forgets all series.
    pub fn reset(&self) {
        self.series.reset();
    }

    /// All series as they are.
    pub fn collect(&self) -> Vec<MetricFamily> {
        self.series.collect()
    }

    fn retain(&self, metric: &Metric, label: &str, keep: &dyn Fn(&str) -> bool) {
        if metric.labels.iter().all(|declared| declared.name != label) {
            return;
        }
        for one in self.collect().iter().flat_map(MetricFamily::get_metric) {
            let value = |name: &str| {
                one.get_label().iter().find(|pair| pair.name() == name).map(LabelPair::value).unwrap_or_default()
            };
            if !keep(value(label)) {
                let values: Vec<&str> = metric.labels.iter().map(|declared| value(declared.name)).collect();
                let _gone_already = self.series.remove_label_values(&values);
            }
        }
    }
}

/// A type of metrics that the table can declare.
pub trait Kind {
    /// What the code has in its hands of it.
    type Handle<const N: usize>;
    /// What Prometheus calls it.
    const NAME: &'static str;

    /// Makes the metric, and lets the registry know of it.
    ///
    /// # Errors
    /// Where the declaration is wrong.
    fn register<const N: usize>(
        metric: &Metric,
        registry: &Registry,
        gone: &Gone,
    ) -> prometheus::Result<Self::Handle<N>>;

    /// Forgets the series whose value of a label is not to be kept.
    fn retain<const N: usize>(handle: &Self::Handle<N>, metric: &Metric, label: &str, keep: &dyn Fn(&str) -> bool);
}

macro_rules! single {
    ($($kind:ident: $name:literal;)+) => { $(
        impl Kind for $kind {
            type Handle<const N: usize> = Self;
            const NAME: &'static str = $name;

            fn register<const N: usize>(metric: &Metric, registry: &Registry, _: &Gone) -> prometheus::Result<Self> {
                let made = Self::with_opts(metric.opts())?;
                registry.register(Box::new(made.clone()))?;
                Ok(made)
            }

            fn retain<const N: usize>(_: &Self, _: &Metric, _: &str, _: &dyn Fn(&str) -> bool) {}
        }
    )+ };
}

single! {
    IntCounter: "counter";
    IntGauge: "gauge";
}

/// The kinds that have labels differ in how they are made, and in what Prometheus calls them.
macro_rules! labelled {
    ($($kind:ident: $name:literal, $make:expr;)+) => { $(
        impl Kind for $kind {
            type Handle<const N: usize> = Labelled<Self, N>;
            const NAME: &'static str = $name;

            fn register<const N: usize>(
                metric: &Metric,
                registry: &Registry,
                gone: &Gone,
            ) -> prometheus::Result<Labelled<Self, N>> {
                let make: fn(Opts, &[&str]) -> prometheus::Result<Self> = $make;
                let labels: Vec<&str> = metric.labels.iter().map(|label| label.name).collect();
                let made = make(metric.opts(), &labels)?;
                registry.register(Box::new(made.clone()))?;
                Ok(Labelled::new(made, metric, gone))
            }

            fn retain<const N: usize>(
                handle: &Labelled<Self, N>,
                metric: &Metric,
                label: &str,
                keep: &dyn Fn(&str) -> bool,
            ) {
                handle.retain(metric, label, keep);
            }
        }
    )+ };
}

labelled! {
    IntCounterVec: "counter", Self::new;
    IntGaugeVec: "gauge", Self::new;
    GaugeVec: "gauge", Self::new;
    LatencyVec: "histogram", |opts, labels| {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Self::create(MetricType::HISTOGRAM, Builder, opts.variable_labels(labels))
    };
}

/// Makes `Metrics` and `SECTIONS` of declarations: `/// help`, then `field: Type = "name", "unit", [labels];`. Where it is used, this
/// module is to be known as `declare`.
macro_rules! table {
    (@count [$($label:expr),*]) => {
        <[&str]>::len(&[$(stringify!($label)),*])
    };
    (@handle $kind:ident, [$($label:expr),*]) => {
        <$kind as declare::Kind>::Handle::<{ table!(@count [$($label),*]) }>
    };
    (@metric $kind:ident, $name:literal, $unit:literal, [$($label:expr),*], $($help:literal),+) => {
        declare::Metric {
            name: $name,
            kind: <$kind as declare::Kind>::NAME,
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
            pub(super) gone: declare::Gone,
            $($(
                #[doc = concat!($($help),+, " `", $name, "`")]
                pub $field: table!(@handle $kind, [$($label),*]),
            )*)*
        }

        /// All declarations.
        pub const SECTIONS: &[declare::Section] = &[$(
            declare::Section {
                title: $title,
                metrics: &[$(table!(@metric $kind, $name, $unit, [$($label),*], $($help),+)),*],
            }
        ),*];

        impl Metrics {
            /// Forgets the series whose value of a label is not to be kept, of all metrics that have the label. What is still under
            /// way may bring one back, but for routes: see [`Metrics::retain_routes`].
            pub fn retain(&self, label: &str, keep: impl Fn(&str) -> bool) {
                $($(
                    let declared = table!(@metric $kind, $name, $unit, [$($label),*], $($help),+);
                    <$kind as declare::Kind>::retain::<{ table!(@count [$($label),*]) }>(&self.$field, &declared, label, &keep);
                )*)*
            }

            /// All metrics that are declared, registered.
            pub(super) fn declared() -> prometheus::Result<Self> {
                let (registry, gone) = (prometheus::Registry::new(), declare::Gone::default());
                $($(
                    let declared = table!(@metric $kind, $name, $unit, [$($label),*], $($help),+);
                    let $field = <$kind as declare::Kind>::register::<{ table!(@count [$($label),*]) }>(&declared, &registry, &gone)?;
                )*)*
                Ok(Self { registry, gone, $($($field,)*)* })
            }
        }
    };
}

pub(super) use table;
