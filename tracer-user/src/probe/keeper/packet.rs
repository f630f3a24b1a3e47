//! Packets with descriptors: the orders that gotrail sends to its keeper and to holders, and what it is told.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::link::{Multi, Ready, Singles};
use super::wire::{MAX_SITES, Message, Order, Site};

/// An order, and what came with it.
pub(super) struct Packet {
    pub(super) order: Order,
    pub(super) sites: Vec<Site>,
    pub(super) fds: Vec<OwnedFd>,
}

/// What there is to receive.
pub(super) enum Received {
    Packet(Packet),
    Nothing,
    /// No more, or nothing that can be understood.
    End,
}

/// Sends an order. One that does not fit is dropped: whoever does not read is found by his silence.
///
/// # Errors
/// Nobody listens any more, or the kernel's.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    order: &Order,
    sites: &[Site],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    send_parts(socket, bytemuck::bytes_of(order), bytemuck::cast_slice(sites), fds)
}

/// Sends a message; likewise.
pub(super) fn send_message(
    socket: BorrowedFd<'_>,
    message: &Message,
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    send_parts(socket, bytemuck::bytes_of(message), &[], fds)
}

fn send_parts(
    socket: BorrowedFd<'_>,
    first: &[u8],
    second: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [IoSlice::new(first), IoSlice::new(second)];
    match sendmsg(socket, &parts, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Receives a message and what descriptor came with it; `None` when there will be none any more.
///
/// # Errors
/// `EAGAIN` or `EINTR`: there is none yet.
pub(super) fn receive_message(socket: BorrowedFd<'_>) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
    let mut bytes = [0; size_of::<Message>()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(message) if message.bytes == bytes.len() => {
            Ok(Some((bytemuck::pod_read_unaligned(&bytes), descriptors(&mut control).next())))
        }
        Err(error @ (Errno::AGAIN | Errno::INTR)) => Err(error),
        _ => Ok(None),
    }
}

fn descriptors(control: &mut RecvAncillaryBuffer<'_>) -> impl Iterator<Item = OwnedFd> {
    control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
}

/// Receives one; `flags` say whether it waits.
pub(super) fn receive(socket: BorrowedFd<'_>, flags: RecvFlags) -> Received {
    let mut bytes = vec![0_u8; size_of::<Order>() + MAX_SITES * size_of::<Site>()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let length = match recvmsg(socket, &mut parts, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
        Ok(message) if message.bytes != 0 && !message.flags.contains(ReturnFlags::TRUNC) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
        _ => return Received::End,
    };
    let fds: Vec<OwnedFd> = descriptors(&mut control).collect();
    let Some((head, rest)) = bytes.get(..length).and_then(|b| b.split_at_checked(size_of::<Order>())) else {
        return Received::End;
    };
    let order: Order = bytemuck::pod_read_unaligned(head);
    let sites: Vec<Site> = rest.chunks_exact(size_of::<Site>()).map(bytemuck::pod_read_unaligned).collect();
    if sites.len() != order.sites as usize {
        return Received::End;
    }
    Received::Packet(Packet { order, sites, fds })
}

impl Order {
    /// The links that a `PREPARE` asks for.
    pub(super) fn links(&self, program: OwnedFd, executable: OwnedFd, sites: Vec<Site>) -> Ready {
        if self.single == 0 {
            return Ready::Multi(Multi::new(program, executable, self.pid, &sites));
        }
        Ready::Singles(Singles::new(program, executable, self.pid, self.event_kind, sites))
    }
}
