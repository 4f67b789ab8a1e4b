//! Databases.

mod lag;
mod maintenance;
//PGB
//READ
mod tls;
