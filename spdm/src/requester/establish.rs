// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! CHALLENGE, KEY_EXCHANGE and FINISH.

use super::discover::Discovered;
use super::session::{Session, Task};
use super::{Answer, Outcome, Progress, Request, Shared, State};
use crate::crypto::{
    HandshakeSecrets, KeyAgreement, PublicKey, Random, RecordKey, SigningContext, Transcript, equal,
};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::challenge::{Challenge, ChallengeAuth, SummaryType};
use crate::wire::opaque::{SECURED_VERSIONS, emit_supported_versions, version_selection};
use crate::wire::session::{Finish, KeyExchange, KeyExchangeResponse, SessionId};
use crate::wire::{Code, NONCE_LENGTH, SIGNATURE_LENGTH};

/// The one slot that is used.
pub(super) const SLOT: u8 = 0;
/// Bytes of the list of supported versions of secured messages.
const OPAQUE_LENGTH: usize = 20;
/// Attribute of CHALLENGE_AUTH: the device wants to challenge back.
const BASIC_MUTUAL_AUTHENTICATION: u8 = 0x80;

/// CHALLENGE.
pub(super) struct Challenged {
    vca: Transcript,
    m1: Transcript,
    key: PublicKey,
}

impl Challenged {
    pub(super) fn new(discovered: &Discovered, key: PublicKey) -> Self {
        Self {
            vca: discovered.vca.clone(),
            m1: discovered.m1.clone(),
            key,
        }
    }

    pub(super) fn request(
        &self,
        shared: &mut Shared,
        out: &mut [u8],
        random: Random<'_>,
    ) -> Result<Request, Error> {
        let mut nonce = [0; NONCE_LENGTH];
        random(&mut nonce)?;
        let len = Challenge::new(SLOT, SummaryType::ALL, nonce).emit(out)?;
        shared.branch(&self.m1, out, len);
        Ok(Request::slow(len))
    }

    pub(super) fn answer<K: KeyAgreement>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let (auth, used) = ChallengeAuth::parse(answer.bytes, true)?;
        let message = answer.exact(used)?;
        if auth.attributes & BASIC_MUTUAL_AUTHENTICATION != 0 {
            return Err(PeerMisbehaved::MutualAuthentication.into());
        }
        let known = shared.digests.certificate.ok_or(Error::Internal)?;
        if auth.attributes & 0xf != SLOT || auth.slot_mask & 1 == 0 {
            return Err(PeerMisbehaved::WrongEcho.into());
        }
        if !equal(auth.chain_digest, &known) {
            return Err(PeerMisbehaved::ChainDigest.into());
        }
        let (signed, signature) = message
            .split_last_chunk::<SIGNATURE_LENGTH>()
            .ok_or(Error::Internal)?;
        let m1 = shared.joined(signed).digest();
        if !self
            .key
            .verifies(SigningContext::ChallengeAuth, &m1, signature)
        {
            return Err(PeerMisbehaved::Signature.into());
        }
        Ok(Progress::to(State::KeyExchange(Exchanging::new(
            &self.vca, self.key,
        ))))
    }
}

/// KEY_EXCHANGE.
pub(super) struct Exchanging<K> {
    vca: Transcript,
    key: PublicKey,
    /// The private half that belongs to the request that was sent.
    agreement: Option<K>,
}

impl<K: KeyAgreement> Exchanging<K> {
    pub(super) fn new(vca: &Transcript, key: PublicKey) -> Self {
        Self {
            vca: vca.clone(),
            key,
            agreement: None,
        }
    }

    pub(super) fn request(
        &mut self,
        shared: &mut Shared,
        out: &mut [u8],
        random: Random<'_>,
    ) -> Result<Request, Error> {
        let mut nonce = [0; NONCE_LENGTH];
        random(&mut nonce)?;
        let (agreement, exchange) = K::generate(random)?;
        let mut opaque = [0; OPAQUE_LENGTH];
        emit_supported_versions(&SECURED_VERSIONS, &mut opaque)?;
        let message = KeyExchange {
            summary: SummaryType::ALL,
            slot: SLOT,
            session_id: shared.config.session_id,
            policy: shared.config.session_policy,
            random: &nonce,
            exchange: &exchange,
            opaque: &opaque,
        };
        let len = message.emit(out)?;
        let chain = shared.digests.certificate.ok_or(Error::Internal)?;
        let th = self.vca.clone().with(&chain);
        shared.branch(&th, out, len);
        self.agreement = Some(agreement);
        Ok(Request::slow(len))
    }

    pub(super) fn answer(
        &mut self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let (response, used) = KeyExchangeResponse::parse(answer.bytes, true)?;
        let message = answer.exact(used)?;
        if response.mutual_authentication != 0 {
            return Err(PeerMisbehaved::MutualAuthentication.into());
        }
        if !SECURED_VERSIONS.contains(&version_selection(response.opaque)?) {
            return Err(PeerMisbehaved::SecuredVersion.into());
        }
        let signed = message
            .len()
            .saturating_sub(KeyExchangeResponse::AFTER_SIGNED);
        let signed = message.get(..signed).ok_or(Error::Internal)?;
        let th = shared.joined(signed);
        let context = SigningContext::KeyExchangeRsp;
        if !self.key.verifies(context, &th.digest(), response.signature) {
            return Err(PeerMisbehaved::Signature.into());
        }
        let th = th.with(response.signature);
        let th1 = th.digest();
        let agreement = self.agreement.take().ok_or(Error::Internal)?;
        let secret = agreement
            .agree(response.exchange)
            .map_err(|_| PeerMisbehaved::ExchangeValue)?;
        let secrets = HandshakeSecrets::new(&secret, &th1);
        if !equal(
            response.verify_data,
            &secrets.response.finished_key().hmac(&th1),
        ) {
            return Err(PeerMisbehaved::VerifyData.into());
        }
        Ok(Progress::to(State::Finish(Finishing {
            id: SessionId::new(shared.config.session_id, response.session_id),
            heartbeat: response.heartbeat,
            tx: RecordKey::new(&secrets.request),
            rx: RecordKey::new(&secrets.response),
            secrets,
            th: th.with(response.verify_data),
            vca: self.vca.clone(),
            key: self.key,
        })))
    }
}

/// FINISH, under the keys of the handshake.
pub(super) struct Finishing {
    id: SessionId,
    heartbeat: u8,
    secrets: HandshakeSecrets,
    tx: RecordKey,
    rx: RecordKey,
    /// The transcript up to and with the verify data of KEY_EXCHANGE_RSP.
    th: Transcript,
    vca: Transcript,
    key: PublicKey,
}

impl Finishing {
    pub(super) fn seal(&mut self, out: &mut [u8], message: usize) -> Result<usize, Error> {
        Ok(self.tx.seal(self.id, out, message)?)
    }

    pub(super) fn open(&mut self, response: &mut [u8]) -> Result<usize, Error> {
        Ok(self.rx.open(self.id, response)?)
    }

    pub(super) fn request(&self, shared: &mut Shared, out: &mut [u8]) -> Result<Request, Error> {
        let mut header = [0; 4];
        Finish::HEADER.emit(&mut header)?;
        let digest = self.th.clone().with(&header).digest();
        let len = Finish::new(self.secrets.request.finished_key().hmac(&digest)).emit(out)?;
        shared.branch(&self.th, out, len);
        Ok(Request::slow(len))
    }

    pub(super) fn answer<K>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        answer.bare(Code::FINISH_RSP)?;
        let th2 = shared.joined(answer.bytes).digest();
        let secrets = self.secrets.data_secrets(&th2);
        let session = Session::new(self.id, &self.vca, self.key, secrets);
        let outcome = Outcome::Established {
            session: self.id,
            heartbeat: self.heartbeat,
        };
        Ok(Progress::to(State::Session(session, Task::Idle)).done(outcome))
    }
}
