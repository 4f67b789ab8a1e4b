//! What `row_to_json` makes of the values of a type.

use tokio_postgres::types::{Kind, Type};

/// Types from here on are not Postgres' own (`FirstNormalObjectId`): a cast of theirs to `json` would be used, so that nothing
/// can be said of them.
const OWN_OIDS_MAX: u32 = 16_384;

/// What the values of a type are in JSON. Every one of them may also be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonType {
    /// `true` or `false`.
    Boolean,
    /// A whole number of so many bits.
    Integer(u8),
    /// A floating-point number of so many bits. NaN and the infinities are strings.
    Float(u8),
    /// A decimal number of any size. NaN and the infinities are strings.
    Decimal,
    /// A string.
    Text,
    /// A string like `2026-10-30`.
    Date,
    /// A string like `2026-10-30T10:00:00`, without an offset.
    LocalTime,
    /// A string like `2026-10-30T10:00:00+00:00`.
    Time,
    /// A UUID.
    Uuid,
    /// One of these strings.
    Labels(Vec<String>),
    /// An array.
    Array(Box<Self>),
    /// An object.
    Object,
    /// Anything.
    Any,
}

impl JsonType {
    /// What a type's values are.
    pub fn of(its: &Type) -> Self {
        match *its {
            Type::BOOL => Self::Boolean,
            Type::INT2 => Self::Integer(16),
            Type::INT4 => Self::Integer(32),
            Type::INT8 => Self::Integer(64),
            Type::FLOAT4 => Self::Float(32),
            Type::FLOAT8 => Self::Float(64),
            Type::NUMERIC => Self::Decimal,
            Type::DATE => Self::Date,
            Type::TIMESTAMP => Self::LocalTime,
            Type::TIMESTAMPTZ => Self::Time,
            Type::UUID => Self::Uuid,
            Type::JSON | Type::JSONB => Self::Any,
            _ => match its.kind() {
                Kind::Array(items) => Self::Array(Box::new(Self::of(items))),
                Kind::Domain(base) => Self::of(base),
                Kind::Enum(labels) => Self::Labels(labels.clone()),
                Kind::Composite(_) => Self::Object,
                Kind::Simple | Kind::Range(_) | Kind::Multirange(_) if its.oid() < OWN_OIDS_MAX => Self::Text,
                _ => Self::Any,
            },
        }
    }
}
