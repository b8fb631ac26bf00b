// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! CHALLENGE, KEY_EXCHANGE and FINISH.

use super::discover::Discovered;
use super::session::{Session, Task};
use super::workspace::RawKey;
use super::{Answer, Outcome, Progress, Request, Shared, State};
use crate::crypto::{
    Digest, HandshakeSecrets, KeyAgreement, PublicKey, Random, RecordKey, Signed, SigningContext,
    Suite, Transcript,
};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::challenge::{Challenge, ChallengeAuth, SummaryType};
use crate::wire::opaque::{SECURED_VERSIONS, emit_supported_versions, version_selection};
use crate::wire::session::{Finish, FinishResponse, KeyExchange, KeyExchangeResponse, SessionId};
use crate::wire::{NONCE_LENGTH, RequesterContext, Version};

/// Bytes of the list of supported versions of secured messages.
const OPAQUE_LENGTH: usize = 20;
/// Attribute of CHALLENGE_AUTH: the device wants to challenge back.
const BASIC_MUTUAL_AUTHENTICATION: u8 = 0x80;

/// Draws what an answer is to repeat. Before version 1.3 there is no such field, and nothing is
/// drawn.
pub(super) fn draw_context(
    version: Version,
    random: Random<'_>,
) -> Result<RequesterContext, Error> {
    let mut context = RequesterContext::default();
    if version.is_at_least(Version::V1_3) {
        random(&mut context)?;
    }
    Ok(context)
}

/// Whose signatures are looked at: a key, and the key itself if that is known by its digest.
pub(super) struct Signer<'a> {
    pub(super) suite: &'a Suite,
    pub(super) key: &'a PublicKey,
    pub(super) raw: &'a RawKey,
}

impl Signer<'_> {
    /// Checks that `signature` is over `transcript`.
    pub(super) fn check(
        &self,
        context: SigningContext,
        transcript: &Transcript,
        signature: &[u8],
    ) -> Result<(), PeerMisbehaved> {
        let signed = Signed {
            version: self.suite.version,
            hash: self.suite.hash,
            context,
            digest: &transcript.digest(),
        };
        if self.key.verifies(self.raw, &signed, signature) {
            Ok(())
        } else {
            Err(PeerMisbehaved::Signature)
        }
    }
}

/// CHALLENGE.
pub(super) struct Challenged {
    vca: Transcript,
    m1: Transcript,
    chain: Digest,
    key: PublicKey,
    /// What was drawn for the request that was sent.
    context: RequesterContext,
}

impl Challenged {
    pub(super) fn new(discovered: &Discovered, key: PublicKey) -> Self {
        Self {
            vca: discovered.vca.clone(),
            m1: discovered.m1.clone(),
            chain: discovered.chain,
            key,
            context: RequesterContext::default(),
        }
    }

    pub(super) fn request(
        &mut self,
        shared: &mut Shared,
        out: &mut [u8],
        random: Random<'_>,
    ) -> Result<Request, Error> {
        let version = shared.suite.version;
        let mut nonce = [0; NONCE_LENGTH];
        random(&mut nonce)?;
        self.context = draw_context(version, random)?;
        let challenge = Challenge {
            slot: shared.config.slot,
            summary: SummaryType::ALL,
            nonce,
            context: self.context,
        };
        let len = challenge.emit(version, out)?;
        shared.branch(&self.m1, out, len);
        Ok(Request::slow(len))
    }

    pub(super) fn answer<K: KeyAgreement>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
        raw: &RawKey,
    ) -> Result<Progress<K>, Error> {
        let layout = shared.suite.layout();
        let (auth, used) = ChallengeAuth::parse(answer.bytes, &layout, true)?;
        let message = answer.exact(used)?;
        if auth.attributes & BASIC_MUTUAL_AUTHENTICATION != 0 {
            return Err(PeerMisbehaved::MutualAuthentication.into());
        }
        let slot = shared.config.slot;
        let provisioned = auth.slot_mask.checked_shr(slot.into()).unwrap_or(0) & 1 == 1;
        if auth.attributes & 0xf != slot || !provisioned || auth.context != self.context {
            return Err(PeerMisbehaved::WrongEcho.into());
        }
        if !self.chain.equals(auth.chain_digest) {
            return Err(PeerMisbehaved::ChainDigest.into());
        }
        let signed = message.len().saturating_sub(layout.signature);
        let m1 = shared.joined(message.get(..signed).ok_or(Error::Internal)?);
        let signer = Signer {
            suite: &shared.suite,
            key: &self.key,
            raw,
        };
        signer.check(SigningContext::ChallengeAuth, &m1, auth.signature)?;
        let next = Exchanging::new(&self.vca, self.chain, self.key);
        Ok(Progress::to(State::KeyExchange(Exchanging {
            summary: Some(summary(&shared.suite, auth.summary)?),
            ..next
        })))
    }
}

/// KEY_EXCHANGE.
pub(super) struct Exchanging<K> {
    vca: Transcript,
    chain: Digest,
    key: PublicKey,
    /// What CHALLENGE_AUTH summed the measurements up to.
    summary: Option<Digest>,
    /// The private half that belongs to the request that was sent.
    agreement: Option<K>,
}

/// Takes a summary that was asked for.
fn summary(suite: &Suite, field: Option<&[u8]>) -> Result<Digest, Error> {
    field
        .and_then(|field| Digest::new(suite.hash, field))
        .ok_or(Error::Internal)
}

impl<K: KeyAgreement> Exchanging<K> {
    pub(super) fn new(vca: &Transcript, chain: Digest, key: PublicKey) -> Self {
        Self {
            vca: vca.clone(),
            chain,
            key,
            summary: None,
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
        let (agreement, exchange) = K::generate(shared.suite.exchange, random)?;
        let mut opaque = [0; OPAQUE_LENGTH];
        emit_supported_versions(&SECURED_VERSIONS, &mut opaque)?;
        let message = KeyExchange {
            summary: SummaryType::ALL,
            slot: shared.config.slot,
            session_id: shared.config.session_id,
            policy: shared.config.session_policy,
            random: &nonce,
            exchange: exchange.as_bytes(),
            opaque: &opaque,
        };
        let len = message.emit(&shared.suite.layout(), out)?;
        let th = self.vca.clone().with(self.chain.as_bytes());
        shared.branch(&th, out, len);
        self.agreement = Some(agreement);
        Ok(Request::slow(len))
    }

    pub(super) fn answer(
        &mut self,
        shared: &mut Shared,
        answer: Answer<'_>,
        raw: &RawKey,
    ) -> Result<Progress<K>, Error> {
        let suite = shared.suite;
        let layout = suite.layout();
        let (response, used) = KeyExchangeResponse::parse(answer.bytes, &layout, true)?;
        let message = answer.exact(used)?;
        if response.mutual_authentication != 0 {
            return Err(PeerMisbehaved::MutualAuthentication.into());
        }
        if !SECURED_VERSIONS.contains(&version_selection(response.opaque)?) {
            return Err(PeerMisbehaved::SecuredVersion.into());
        }
        let after = KeyExchangeResponse::after_signed(&layout);
        let signed = message.len().saturating_sub(after);
        let th = shared.joined(message.get(..signed).ok_or(Error::Internal)?);
        let signer = Signer {
            suite: &suite,
            key: &self.key,
            raw,
        };
        signer.check(SigningContext::KeyExchangeRsp, &th, response.signature)?;
        // Both are signed; a device that changes in between is not the one that was challenged.
        let summary = summary(&suite, response.summary)?;
        if self.summary.is_some_and(|before| before != summary) {
            return Err(PeerMisbehaved::MeasurementSummary.into());
        }
        let th = th.with(response.signature);
        let th1 = th.digest();
        let agreement = self.agreement.take().ok_or(Error::Internal)?;
        let secret = agreement
            .agree(response.exchange)
            .map_err(|_| PeerMisbehaved::ExchangeValue)?;
        let secrets = HandshakeSecrets::new(suite.schedule(), &secret, &th1);
        let expected = secrets.response.finished_key().hmac(th1.as_bytes());
        if !expected.equals(response.verify_data) {
            return Err(PeerMisbehaved::VerifyData.into());
        }
        Ok(Progress::to(State::Finish(Finishing {
            id: SessionId::new(shared.config.session_id, response.session_id),
            heartbeat: response.heartbeat,
            tx: RecordKey::new(suite.aead, &secrets.request),
            rx: RecordKey::new(suite.aead, &secrets.response),
            secrets,
            th: th.with(response.verify_data),
            vca: self.vca.clone(),
            key: self.key,
            summary,
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
    summary: Digest,
}

impl Finishing {
    pub(super) fn seal(&mut self, out: &mut [u8], message: usize) -> Result<usize, Error> {
        Ok(self.tx.seal(self.id, out, message)?)
    }

    pub(super) fn open(&mut self, response: &mut [u8]) -> Result<usize, Error> {
        Ok(self.rx.open(self.id, response)?)
    }

    pub(super) fn request(&self, shared: &mut Shared, out: &mut [u8]) -> Result<Request, Error> {
        let layout = shared.suite.layout();
        // What the HMAC covers is everything before it.
        let unsigned = Digest::zero(shared.suite.hash);
        let finish = |verify_data: &Digest, out: &mut [u8]| {
            let message = Finish {
                opaque: &[],
                verify_data: verify_data.as_bytes(),
            };
            message.emit(&layout, out)
        };
        let covered = finish(&unsigned, out)?.saturating_sub(layout.hash);
        let covered = out.get(..covered).ok_or(Error::Internal)?;
        let digest = self.th.clone().with(covered).digest();
        let key = self.secrets.request.finished_key();
        let len = finish(&key.hmac(digest.as_bytes()), out)?;
        shared.branch(&self.th, out, len);
        Ok(Request::slow(len))
    }

    pub(super) fn answer<K>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let (_, used) = FinishResponse::parse(answer.bytes, shared.suite.version)?;
        let th2 = shared.joined(answer.exact(used)?).digest();
        let secrets = self.secrets.data_secrets(&th2);
        shared.heartbeat = self.heartbeat;
        let session = Session::new(
            self.id,
            &shared.suite,
            &self.vca,
            self.key,
            self.summary,
            secrets,
        );
        let outcome = Outcome::Established {
            session: self.id,
            heartbeat: self.heartbeat,
        };
        Ok(Progress::to(State::Session(session, Task::Idle)).done(outcome))
    }
}
