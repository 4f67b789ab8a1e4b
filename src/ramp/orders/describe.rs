//! What the handlers of orders say of themselves.

use serde_json::{Value, json};

use super::super::{idempotency, page};
use super::product::Product;
use crate::error::Code;
use crate::source::description::{Description, Header, Response};

/// What `ramp.{product}.create` takes and gives.
pub(super) fn create(product: Product) -> Description {
    let amount = json!({ "type": "integer", "format": "int64", "minimum": 1, "description": given(product) });
    let currency = json!({ "type": "string", "pattern": "^[A-Z]{3}$", "description": "The money: one that /public/fees lists for the product." });
    let (properties, required) = if product.is_outside() {
        let asset = json!({ "type": "string", "description": "AFRI, or the currency itself." });
        let provider = json!({ "type": "string", "description": "Who pays, or is paid: sandbox." });
        (
            json!({ "amount": amount, "currency": currency, "asset": asset, "provider": provider }),
            json!(["amount", "currency", "asset", "provider"]),
        )
    } else {
        let asset = json!({ "const": "AFRI" });
        (json!({ "amount": amount, "currency": currency, "asset": asset }), json!(["amount", "currency", "asset"]))
    };
    let request =
        json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties });
    let (summary, details) = match product {
        Product::Onramp => (
            "Order tokens, or a balance, for money from outside",
            "The quote counts until `expires_at`. The order is `completed` once the provider tells that it was paid.",
        ),
        Product::Offramp => (
            "Order a payout of tokens, or of a balance",
            "What is given is held until the provider has paid. The quote counts until `expires_at`.",
        ),
        Product::Mint => (
            "Turn a balance into tokens",
            "What is given is held until the issuer confirms. The quote counts until `expires_at`.",
        ),
        Product::Redemption => (
            "Turn tokens into a balance",
            "What is given is held until the issuer confirms. The quote counts until `expires_at`.",
        ),
    };
    let own =
        [Code::InsufficientFunds, Code::LimitExceeded, Code::RateUnavailable, Code::BodyInvalid, Code::ClaimInvalid];
    // Without an issuer there is nothing to mint.
    let absent = (!product.is_outside()).then_some(Code::NotFound);
    Description {
        summary,
        details,
        request: Some(request),
        request_headers: vec![Header::idempotency_key(true)],
        responses: vec![once(201, "The order.", product)],
        codes: own.into_iter().chain(absent).chain(idempotency::CODES).collect(),
    }
}

/// What `ramp.{product}.get` takes and gives.
pub(super) fn get(product: Product) -> Description {
    Description {
        summary: "An order of the caller's, with its history",
        responses: vec![Response::ok("The order.", schema(product))],
        codes: vec![Code::NotFound, Code::ClaimInvalid],
        ..Description::default()
    }
}

/// What `ramp.{product}.list` takes and gives.
pub(super) fn list(product: Product) -> Description {
    Description {
        summary: "The caller's orders",
        details: "The newest first.",
        responses: vec![Response::ok("A page.", page::schema("orders", &schema(product)))],
        codes: vec![Code::ClaimInvalid, Code::ParamInvalid],
        ..Description::default()
    }
}

/// What `ramp.{product}.cancel` takes and gives.
pub(super) fn cancel(product: Product) -> Description {
    let own = [Code::NotFound, Code::StateConflict, Code::BodyInvalid, Code::ClaimInvalid];
    Description {
        summary: "Cancel an order",
        details: "As long as nothing is under way for it. What is held is free again.",
        request_headers: vec![Header::idempotency_key(true)],
        responses: vec![once(200, "The order, which is cancelled.", product)],
        codes: own.into_iter().chain(idempotency::CODES).collect(),
        ..Description::default()
    }
}

/// The answer to a request that has its effect once.
fn once(status: u16, summary: &'static str, product: Product) -> Response {
    Response { status, headers: vec![idempotency::replayed()], ..Response::ok(summary, schema(product)) }
}

fn given(product: Product) -> &'static str {
    if product.buys() {
        "What is given, in minor units of the currency."
    } else {
        "What is given, in minor units of the asset."
    }
}

/// The schema of an order.
pub(super) fn schema(product: Product) -> Value {
    let units = |description: &str| json!({ "type": "integer", "format": "int64", "description": description });
    let time = |description: &str| json!({ "type": "string", "format": "date-time", "description": description });
    let text = |description: &str| json!({ "type": "string", "description": description });
    let (received, meaning) = if product.buys() {
        ("asset_amount", "What is credited, in minor units of the asset.")
    } else {
        ("currency_amount", "What is paid out or credited, in minor units of the currency.")
    };
    let quote = json!({
        "type": "object",
        "required": ["rate", "fee", "fee_currency", received, "expires_at"],
        "properties": {
            "rate": { "type": "number", "exclusiveMinimum": 0, "description": "Units received for one given." },
            "fee": units("Taken from the money, in its minor units."),
            "fee_currency": { "type": "string" },
            received: units(meaning),
            "expires_at": time("Until when it counts."),
        },
    });
    let step = json!({
        "type": "object",
        "required": ["status", "event", "transaction_id", "at"],
        "properties": {
            "status": text("Where it has stood since."),
            "event": text("What has happened."),
            "transaction_id": {
                "type": ["string", "null"], "format": "uuid", "description": "What that has entered into the ledger, or ended there.",
            },
            "at": time("When."),
        },
    });
    json!({
        "type": "object",
        "required": ["id", "status", "amount", "currency", "asset", "provider", "quote", "history", "created_at"],
        "properties": {
            "id": { "type": "string", "format": "uuid" },
            "status": { "enum": product.statuses() },
            "amount": units(given(product)),
            "currency": text("The money."),
            "asset": text("What it is exchanged for."),
            "provider": text("Who tells what becomes of it."),
            "quote": quote,
            "instructions": { "description": "How to pay, where the provider has something to say." },
            "history": { "type": "array", "items": step, "description": "Its steps, the first one first." },
            "created_at": time("When it was made."),
        },
    })
}
