//! The ledger over real gRPC, on a real database and a real Redis. Each test takes the database that it runs on and is run
//! on both, as `…::sqlite::its_name` and `…::postgres::its_name`; what only Postgres can show exists only there.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

/// Makes tests of these functions, one for each database. One that is not listed is dead code, which the lints refuse.
macro_rules! on_each_database {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(::caudal_harness::Database::Sqlite).await;
                }
            )*
        }
        on_postgres![$($name),*];
    };
}

/// The same for what only Postgres can show.
macro_rules! on_postgres {
    ($($name:ident),* $(,)?) => {
        mod postgres {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(::caudal_harness::Database::Postgres).await;
                }
            )*
        }
    };
}

mod bounds;
mod collector;
mod commits;
mod full_disk;
mod leadership;
mod manifest;
mod metadata;
mod operated;
mod operations;
mod recovery;
mod selector;
mod shares;
mod stages;
mod storm;
mod support;
mod tenancy;
mod tokens;
mod verbs;
mod verify;
