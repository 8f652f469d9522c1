//! Ports for servers that are told where to listen.

use std::fs::{File, OpenOptions, TryLockError};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, bail};

/// Below the range out of which Linux takes ports by itself (`net.ipv4.ip_local_port_range`, 32768 and up), so that no
/// connection is given one as its own end.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A port of 127.0.0.1 that no other test takes while this lives. To ask the system for a free one, and let it go again for
/// the server to take, is a race that tests beside each other lose at times.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reserved: File,
}

impl Port {
    /// Reserves one, with a lock on a file that stands for it.
    ///
    /// # Errors
    /// When there is no place for the files, or no port is free.
    pub fn reserve() -> anyhow::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = std::env::temp_dir().join("caudal-test-ports");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        // Processes begin apart from each other.
        let first = u16::try_from(std::process::id().wrapping_mul(389) % u32::from(COUNT))?;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let number =
                FIRST + u16::try_from((u32::from(first) + u32::from(step)) % u32::from(COUNT))?;
            let reserved = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(number.to_string()))?;
            match reserved.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            // Somebody else's server may be there.
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self {
                    number,
                    _reserved: reserved,
                });
            }
        }
        bail!("no port is free from {FIRST} on")
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_port_is_given_twice_and_each_can_be_listened_on() {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        let numbers: HashSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
        for port in &ports {
            TcpListener::bind(("127.0.0.1", port.number())).unwrap();
        }
    }
}
