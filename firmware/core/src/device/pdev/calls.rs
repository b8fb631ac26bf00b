// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's calls about physical devices.

use tsm_abi::rmi::{PublicKeyParams, SignatureAlgorithm};
use tsm_spdm::crypto::{self, MAX_POINT_LENGTH, PublicKey};
use tsm_spdm::{Config, Requester};

use super::super::comm::{self, Comm, Exit, Trouble};
use super::super::registry::Registry;
use super::exchange::Stepped;
use super::link::Ending;
use super::{Event, Op, Pdev, Role, State, create, stream, with};
use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};
use crate::granule;

/// Bytes of the digest of an ML-DSA key.
const FINGERPRINT_BYTES: usize = 48;

/// `RMI_PDEV_GET_STATE`.
pub(crate) fn get_state<P: Machine>(context: &Context<'_, P>, object: u64) -> Result {
    let _registry = context.devices();
    with(context, object, |pdev| Reply::one(pdev.state as u64))
}

/// `RMI_PDEV_COMMUNICATE`.
pub(crate) fn communicate<P: Machine>(context: &Context<'_, P>, object: u64, data: u64) -> Result {
    let mut registry = context.devices();
    let (comm, op, is_port) = with(context, object, |pdev| {
        (pdev.comm, pdev.op, matches!(pdev.role, Role::RootPort(_)))
    })?;
    let entry = comm::enter(context, data, comm)?;
    let mut exit = Exit::new();
    let waits = match op {
        Some(Op::Stream { endpoint }) => stream::meet(context, endpoint, is_port)?,
        _ => stream::Meet::Go,
    };
    let stepped = match waits {
        stream::Meet::Wait => {
            exit.wait_for_stream();
            Ok(Stepped::Sent)
        }
        stream::Meet::End => Ok(Stepped::Complete),
        stream::Meet::Go => {
            let buffers = &mut registry.buffers;
            let advance = |pdev: &mut Pdev| pdev.advance(context, buffers, &entry, &mut exit);
            with(context, object, advance)??
        }
    };
    if stepped == Ok(Stepped::Worked(Ending::Done)) {
        exit.wait_for_stream();
    }
    let told = comm::leave(context, data, &exit);
    match stepped.and_then(|stepped| told.map(|()| stepped)) {
        Ok(stepped) => settle(context, &registry, object, stepped)?,
        Err(Trouble::Session | Trouble::Refused) => {
            super::fail(context, &registry, object);
        }
    }
    Ok(Reply::NONE)
}

/// Moves the device on after a step that went well.
fn settle<P: Machine>(
    context: &Context<'_, P>,
    registry: &Registry,
    object: u64,
    stepped: Stepped,
) -> Result<()> {
    match stepped {
        Stepped::Sent => with(context, object, |pdev| pdev.comm = Comm::Active),
        Stepped::Worked(ending) => stream::worked(context, registry, object, ending),
        Stepped::Complete => with(context, object, |pdev| {
            pdev.comm = Comm::Idle;
            let event = match (pdev.op, pdev.state, &mut pdev.role) {
                // The stream's call ends the operation.
                (Some(Op::Stream { .. }), ..) => return Ok(()),
                (Some(Op::Stop), _, role) => {
                    if let Role::Endpoint(endpoint) = role {
                        // Erases what is left of the session.
                        endpoint.requester = Requester::new(Config::new(0));
                        endpoint.lost = true;
                    }
                    Event::Ended
                }
                (_, State::HasKey, _) => Event::Established,
                (_, _, Role::RootPort(_)) => Event::Opened,
                _ => Event::Discovered,
            };
            pdev.op = None;
            pdev.apply(event)
        })?,
    }
}

/// `RMI_PDEV_SET_PUBKEY`.
pub(crate) fn set_pubkey<P: Machine>(context: &Context<'_, P>, object: u64, params: u64) -> Result {
    let params: PublicKeyParams = context.host_structure(params)?;
    let algorithm = SignatureAlgorithm::from_word(u64::from(params.algo)).ok_or(Error::Input)?;
    let length = match algorithm {
        SignatureAlgorithm::Rsassa3072 => 384,
        SignatureAlgorithm::EcdsaP256 => 65,
        SignatureAlgorithm::EcdsaP384 => 97,
        SignatureAlgorithm::MlDsa65 | SignatureAlgorithm::MlDsa87 => FINGERPRINT_BYTES,
    };
    let metadata = u64::try_from(params.metadata.len()).map_err(|_| Error::Input)?;
    if Ok(length) != usize::try_from(params.key_len.get()) || params.metadata_len.get() > metadata {
        return Err(Error::Input);
    }
    let _registry = context.devices();
    with(context, object, |pdev| {
        if pdev.state != State::NeedsKey || !pdev.comm.is_quiet() {
            return Err(Error::Device);
        }
        // No suite of the requester has it: well formed, but of no use.
        if algorithm == SignatureAlgorithm::Rsassa3072 {
            return Err(Error::Device);
        }
        let bytes = params.key.get(..length).ok_or(Error::Input)?;
        let key = public_key(context, algorithm, bytes)?;
        let endpoint = pdev.endpoint().ok_or(Error::Device)?;
        endpoint.key = Some(key);
        pdev.apply(Event::KeySet)?;
        pdev.op = Some(Op::Connect);
        pdev.comm = Comm::Pending;
        Ok(Reply::NONE)
    })?
}

/// Takes a key: an uncompressed point, or the digest of an ML-DSA key, which has no room in the
/// parameters itself. The device shows it, and the session is held to the digest.
fn public_key<P: Machine>(
    context: &Context<'_, P>,
    algorithm: SignatureAlgorithm,
    bytes: &[u8],
) -> Result<PublicKey> {
    let of_digest = |algorithm| {
        let digest = bytes.first_chunk().ok_or(Error::Input)?;
        PublicKey::from_fingerprint(algorithm, *digest).map_err(|_| Error::Input)
    };
    match algorithm {
        SignatureAlgorithm::MlDsa65 => return of_digest(crypto::SignatureAlgorithm::MlDsa65),
        SignatureAlgorithm::MlDsa87 => return of_digest(crypto::SignatureAlgorithm::MlDsa87),
        _ => {}
    }
    let mut point = [0; MAX_POINT_LENGTH];
    for (byte, value) in point.iter_mut().zip(bytes) {
        *byte = *value;
    }
    let length = bytes.len();
    let parse = move |_: &_, (): &mut (), (): &mut ()| {
        PublicKey::new(point.get(..length).unwrap_or_default())
    };
    let key = context.platform.isolated(&mut (), &mut (), || (), parse);
    key.map_err(|_| Error::Input)?.map_err(|_| Error::Input)
}

/// `RMI_PDEV_STOP`.
pub(crate) fn stop<P: Machine>(context: &Context<'_, P>, object: u64) -> Result {
    let _registry = context.devices();
    with(context, object, |pdev| {
        let is_stoppable = pdev.state.after(Event::Ended).is_some();
        let is_unused = pdev.streams == 0 && pdev.vdevs == 0 && pdev.op.is_none();
        if !pdev.comm.is_quiet() || !is_unused || !is_stoppable {
            return Err(Error::Device);
        }
        pdev.op = Some(Op::Stop);
        pdev.comm = Comm::Pending;
        Ok(Reply::NONE)
    })?
}

/// `RMI_PDEV_ABORT`: gives up the exchange. A request that is out leaves the session in doubt, so
/// the session goes, and what rests on it.
pub(crate) fn abort<P: Machine>(context: &Context<'_, P>, object: u64) -> Result {
    let registry = context.devices();
    if with(context, object, |pdev| pdev.comm)? == Comm::Idle {
        return Err(Error::Device);
    }
    super::fail(context, &registry, object);
    with(context, object, |pdev| pdev.comm = Comm::Idle)?;
    Ok(Reply::NONE)
}

/// `RMI_PDEV_DESTROY`.
pub(crate) fn destroy<P: Machine>(context: &Context<'_, P>, object: u64) -> Result {
    let mut registry = context.devices();
    if with(context, object, |pdev| pdev.state)? != State::Stopped {
        return Err(Error::Device);
    }
    create::give_back(context, &mut registry, object, granule::State::Pdev)
}
