//! The tables of the schema `ramp`, as `diesel print-schema --schema ramp` would write them: those that handlers read as tables.

diesel::table! {
    /// Customers.
    ramp.accounts (id) {
        /// Their id, which keys and claims name as `sub`.
        id -> Uuid,
        /// What they are called.
        name -> Text,
        /// How well they are known.
        kyc_tier -> SmallInt,
        /// When they came.
        created_at -> Timestamptz,
    }
}

diesel::table! {
    /// Transactions of the ledger.
    ramp.ledger_transactions (id) {
        /// Its id.
        id -> Uuid,
        /// Why the money moves.
        kind -> Text,
        /// `pending`, `posted` or `voided`.
        state -> Text,
        /// The transaction that this one takes back.
        reverses -> Nullable<Uuid>,
        /// When it was entered.
        created_at -> Timestamptz,
        /// When it ceased to be pending.
        settled_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    /// Accounts of the ledger.
    ramp.ledger_accounts (id) {
        /// Its id.
        id -> BigInt,
        /// The customer whose it is, where it is one's.
        account_id -> Nullable<Uuid>,
        /// The currency whose minor units it counts.
        currency -> Text,
    }
}

diesel::table! {
    /// What transactions add to accounts of the ledger.
    ramp.ledger_entries (transaction_id, ledger_account_id) {
        /// The transaction.
        transaction_id -> Uuid,
        /// The account of the ledger.
        ledger_account_id -> BigInt,
        /// In minor units: positive where it goes up.
        amount -> BigInt,
    }
}

diesel::table! {
    /// What came of requests that move money.
    ramp.idempotency_keys (account_id, operation, key) {
        /// Who asked.
        account_id -> Uuid,
        /// For what.
        operation -> Text,
        /// By which key.
        key -> Text,
        /// SHA-256 of the request.
        request_hash -> Bytea,
        /// The status of the answer, or the code of the refusal.
        outcome -> Nullable<Text>,
        /// The body of the answer, or the sentence of the refusal.
        body -> Nullable<Bytea>,
        /// When it was asked.
        created_at -> Timestamptz,
    }
}

diesel::table! {
    /// Money sent from one customer to another.
    ramp.transfers (id) {
        /// Its id, and that of its transaction.
        id -> Uuid,
        /// Who sends.
        from_account_id -> Uuid,
        /// Who receives.
        to_account_id -> Uuid,
        /// The currency whose minor units the amounts count.
        currency -> Text,
        /// What arrives.
        amount -> BigInt,
        /// What the sender pays on top of it.
        fee -> BigInt,
        /// When it was sent.
        created_at -> Timestamptz,
    }
}

diesel::table! {
    /// On-ramp and off-ramp orders, mint and redemption requests.
    ramp.orders (id) {
        /// Its id.
        id -> Uuid,
        /// The customer's.
        account_id -> Uuid,
        /// `onramp`, `offramp`, `mint` or `redemption`.
        product -> Text,
        /// Who tells what becomes of it.
        provider -> Text,
        /// What the customer gives, in minor units.
        given_amount -> BigInt,
        /// The currency of that.
        given_currency -> Text,
        /// What the customer receives, in minor units.
        received_amount -> BigInt,
        /// The currency of that.
        received_currency -> Text,
        /// The fee, in the currency that is no token.
        fee -> BigInt,
        /// Units received for one given.
        rate -> Numeric,
        /// When it was made.
        created_at -> Timestamptz,
        /// Until when its quote counts.
        expires_at -> Timestamptz,
        /// Where it stands.
        status -> Text,
    }
}

diesel::table! {
    /// How orders came to their status.
    ramp.order_history (order_id, seq) {
        /// The order's id.
        order_id -> Uuid,
        /// The number of the step, from one.
        seq -> Integer,
        /// What has happened.
        event -> Text,
        /// Where the order has stood since.
        to_status -> Text,
        /// The transaction of the ledger that it has entered or ended.
        transaction_id -> Nullable<Uuid>,
        /// When.
        at -> Timestamptz,
    }
}

diesel::table! {
    /// What providers have told.
    ramp.webhook_events (provider, event_id) {
        /// Who has told it.
        provider -> Text,
        /// Its id, which the provider gave it.
        event_id -> Text,
        /// What happened.
        kind -> Text,
        /// The order that it happened to.
        order_id -> Uuid,
        /// How much was moved, where it says so.
        amount -> Nullable<BigInt>,
        /// The currency of that amount.
        currency -> Nullable<Text>,
        /// The body as it was signed.
        payload -> Bytea,
        /// When it came first.
        received_at -> Timestamptz,
        /// What came of it; NULL: it is still to be seen to.
        outcome -> Nullable<Text>,
        /// When it was seen to.
        processed_at -> Nullable<Timestamptz>,
    }
}

diesel::allow_tables_to_appear_in_same_query!(accounts, ledger_transactions, transfers);
diesel::allow_tables_to_appear_in_same_query!(ledger_accounts, ledger_entries);
