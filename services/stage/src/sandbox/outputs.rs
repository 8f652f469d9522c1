//! What comes out of a child: its framed result, and what it says on standard error.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe::Receiver;

/// How much of the end of a child's standard error is kept for the detail of a failure, in bytes.
const COMPLAINT_BYTES: usize = 4 << 10;

/// Room for a usual result, which a pipe holds as a whole.
const RESULT_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Outputs {
    result: Receiver,
    complaint: Receiver,
}

impl Outputs {
    /// With them the ends that a child writes to: of its result, and of its standard error.
    pub(super) fn new() -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let (result, its_result) = io::pipe()?;
        let (complaint, its_complaint) = io::pipe()?;
        let outputs = Self {
            result: Receiver::from_owned_fd(result.into())?,
            complaint: Receiver::from_owned_fd(complaint.into())?,
        };
        Ok((outputs, its_result.into(), its_complaint.into()))
    }

    /// Reads both until the child closes them: its result, or none where that is longer than `bound`. `complaint`
    /// receives the end of its standard error, also when this future is dropped halfway.
    pub(super) async fn read(
        self,
        bound: u64,
        complaint: &mut Vec<u8>,
    ) -> io::Result<Option<Vec<u8>>> {
        let result = async {
            let mut bytes = Vec::with_capacity(RESULT_BYTES);
            self.result
                .take(bound.saturating_add(1))
                .read_to_end(&mut bytes)
                .await?;
            if bytes.len() as u64 > bound {
                Err(ReadError::Flood)
            } else {
                Ok(bytes)
            }
        };
        let mut stderr = self.complaint;
        match tokio::try_join!(result, keep_the_end(&mut stderr, complaint)) {
            Ok((bytes, ())) => Ok(Some(bytes)),
            Err(ReadError::Flood) => Ok(None),
            Err(ReadError::Io(error)) => Err(error),
        }
    }
}

enum ReadError {
    Flood,
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads everything, so that a talkative child never blocks, and keeps the last [`COMPLAINT_BYTES`]: a panic and a failed
/// allocation are what a process says last.
async fn keep_the_end(
    stderr: &mut (impl AsyncRead + Unpin),
    complaint: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let mut chunk = [0; COMPLAINT_BYTES];
    loop {
        let read = stderr.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        complaint.extend_from_slice(&chunk[..read]);
        let surplus = complaint.len().saturating_sub(COMPLAINT_BYTES);
        complaint.drain(..surplus);
    }
}
