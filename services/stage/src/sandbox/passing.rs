//! What travels between a stage and its parser host.
//!
//! The stage sends one message a child over the host's control socket, which keeps messages apart: an [`Order`] as JSON
//! with four open descriptors. One of them is the host's end of a stream of that child's own, on which the host says what
//! becomes of it ([`STARTED`] or [`REFUSED`], then [`ENDED`] with the raw status); the end of that stream without an
//! [`ENDED`] means that the host is gone, and the stage closing it that the child is not wanted any more.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::MAX_REQUEST_BYTES;
use super::child::{Descriptors, Spec};

/// The child was forked.
pub(super) const STARTED: u8 = 1;
/// It could not be.
pub(super) const REFUSED: u8 = 2;
/// It has ended; its raw status follows, four bytes in big-endian order.
pub(super) const ENDED: u8 = 3;

/// Room for a request and the name of its parser.
const MAX_ORDER_BYTES: usize = MAX_REQUEST_BYTES + 1_024;
/// Descriptors of one order: the file, the result, standard error, the stream of answers.
const DESCRIPTORS: usize = 4;

/// What a host is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) parser: String,
    pub(super) spec: Spec,
}

/// The place that an order is received in.
pub(super) struct Received {
    bytes: Vec<u8>,
}

impl Received {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; MAX_ORDER_BYTES],
        }
    }

    /// The next order with its descriptors, of which the last is the stream of answers; `None` when nobody asks any more.
    pub(super) fn next(
        &mut self,
        control: impl AsFd,
    ) -> io::Result<Option<(Order, Descriptors, OwnedFd)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut passed = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(
            control,
            &mut [IoSliceMut::new(&mut self.bytes)],
            &mut passed,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if message.bytes == 0 {
            return Ok(None);
        }
        if message
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(io::Error::other("an order that is too long"));
        }
        let mut descriptors = passed.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let mut next = || {
            descriptors
                .next()
                .ok_or_else(|| io::Error::other("an order without its descriptors"))
        };
        let streams = Descriptors {
            input: next()?,
            result: next()?,
            complaint: next()?,
        };
        let answers = next()?;
        let order = serde_json::from_slice(&self.bytes[..message.bytes])?;
        Ok(Some((order, streams, answers)))
    }
}

/// Sends an order, or fails at once where the host is gone or has a heap of orders before it.
pub(super) fn send(
    control: impl AsFd,
    order: &[u8],
    descriptors: [BorrowedFd<'_>; DESCRIPTORS],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut passed = SendAncillaryBuffer::new(&mut space);
    if !passed.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    sendmsg(
        control,
        &[IoSlice::new(order)],
        &mut passed,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    Ok(())
}
