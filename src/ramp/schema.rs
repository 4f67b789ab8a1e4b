//! The tables of the reference application, as `diesel print-schema` would write them.

diesel::table! {
    /// Currencies that the API knows.
    currencies (code) {
        /// ISO 4217 code.
        code -> Text,
        /// English name.
        name -> Text,
        /// Digits after the point in the minor unit.
        exponent -> SmallInt,
    }
}

diesel::table! {
    /// Reference rates, one row a fixing and currency.
    exchange_rates (base, date, currency) {
        /// Day of the fixing.
        date -> Date,
        /// The currency of which one unit is priced.
        base -> Text,
        /// The currency that the rate counts.
        currency -> Text,
        /// Units of `currency` for one of `base`, with the digits as published.
        rate -> Numeric,
    }
}

diesel::table! {
    /// What a product costs in a currency.
    fee_schedules (product, currency) {
        /// `onramp`, `transfer`, …
        product -> Text,
        /// The currency whose minor units the amounts count.
        currency -> Text,
        /// Parts per million of the amount.
        percent_ppm -> Integer,
        /// Added to the percentage.
        fixed_fee -> BigInt,
        /// The least fee.
        min_fee -> BigInt,
        /// The greatest fee; NULL: no bound.
        max_fee -> Nullable<BigInt>,
    }
}

diesel::table! {
    /// Help documents.
    docs (slug) {
        /// Its name in the path.
        slug -> Text,
        /// Its heading.
        title -> Text,
        /// Markdown.
        body -> Text,
        /// When it was last edited.
        updated_at -> Timestamptz,
    }
}

diesel::allow_tables_to_appear_in_same_query!(currencies, exchange_rates, fee_schedules, docs);
