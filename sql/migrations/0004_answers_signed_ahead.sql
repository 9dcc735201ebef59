-- SPDX-License-Identifier: Apache-2.0
-- Answers signed ahead of their time: what is stored, what is to be signed, and what is in demand.
-- Signatures, never truth: an answer is sent from here only while ocsp.certificate says the same, which is asked in the
-- statement that reads it. Kept by `ocsp-responder presign`; nothing is lost with it but time.
-- No foreign key: it would have every answer stored lock, and so write, the row it is about.
CREATE TABLE ocsp.stored_answer (
    issuer_id   integer     NOT NULL,
    serial      bytea       NOT NULL,
    -- The hash of the CertID that is answered (RFC 6960 section 4.1.1); its parameters are NULL.
    hash        text        NOT NULL CHECK (hash IN ('sha1', 'sha256')),
    -- What is signed: status, time and reason as they stood.
    status      ocsp.status NOT NULL CHECK (status IN ('good', 'revoked')),
    revoked_at  timestamptz,
    reason      smallint,
    this_update timestamptz NOT NULL,
    next_update timestamptz NOT NULL,
    refresh_at  timestamptz NOT NULL,
    signer_id   integer     NOT NULL,
    -- The policy's, as it was then: it is said in the answer (RFC 6960 section 4.4.4).
    archive_cutoff_seconds bigint,
    body        bytea       NOT NULL,
    PRIMARY KEY (issuer_id, serial, hash),
    CONSTRAINT stored_revoked_has_time_and_reason_and_nothing_else_has
        CHECK ((status = 'revoked') = (revoked_at IS NOT NULL) AND (status = 'revoked') = (reason IS NOT NULL)),
    CONSTRAINT stored_times_are_in_order
        CHECK (this_update <= refresh_at AND refresh_at <= next_update AND this_update < next_update)
)
-- An answer is replaced before it ends, and neighbours together: with room for both, the index has nothing to follow.
WITH (fillfactor = 50);
-- A signature does not compress.
ALTER TABLE ocsp.stored_answer ALTER COLUMN body SET STORAGE EXTERNAL;

-- What is to be signed ahead, in portions. A presigner takes one out in the transaction that stores its answers: whoever
-- dies gives it back.
CREATE TABLE ocsp.presign_job (
    job_id    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer_id integer     NOT NULL,
    -- Of revoked certificates whose answer does not say so: they come first.
    urgent    boolean     NOT NULL,
    serials   bytea[]     NOT NULL,
    answers   integer     NOT NULL CHECK (answers > 0),
    queued_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX presign_job_in_order ON ocsp.presign_job (urgent DESC, job_id);

-- Certificates that were asked for, as the responders note them about once an hour: for signing ahead what is in demand.
CREATE TABLE ocsp.asked (
    issuer_id integer     NOT NULL,
    serial    bytea       NOT NULL,
    last_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (issuer_id, serial)
);
