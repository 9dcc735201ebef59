-- SPDX-License-Identifier: Apache-2.0
-- The whole protocol as a matter of each issuer's policy: nonces, archive cutoff, retention past expiry, and requests
-- that have to be signed.

ALTER TABLE ocsp.issuer
    -- 'echo': a nonce is repeated, in an answer signed for that one request (RFC 9654).
    ADD COLUMN nonce text NOT NULL DEFAULT 'off' CHECK (nonce IN ('off', 'echo')),
    -- How far back past expiry answers vouch for statuses (RFC 6960 section 4.4.4). Null: nothing is said of it.
    ADD COLUMN archive_cutoff_seconds bigint CHECK (archive_cutoff_seconds > 0),
    -- How long past expiry a row is kept before it may be purged (RFC 9919 section 3.2.3). Null: for ever.
    ADD COLUMN retention_seconds bigint CHECK (retention_seconds > 0),
    -- Only requests signed under a CA in ocsp.requester_ca are answered (RFC 6960 section 4.1.2).
    ADD COLUMN require_signed boolean NOT NULL DEFAULT false,
    -- BR 4.10.1: an entry stays until after the Expiry Date. BR 4.9.9: whoever asks gets an answer.
    ADD CONSTRAINT public_rows_outlive_expiry_by_a_day CHECK (NOT (public AND retention_seconds < 86400)),
    ADD CONSTRAINT public_issuers_answer_everybody CHECK (NOT (public AND require_signed)),
    ADD CONSTRAINT archive_cutoff_within_retention CHECK (archive_cutoff_seconds <= retention_seconds);

-- CAs under which clients sign their requests, for issuers that answer nobody else. Kept when removed, for auditors.
CREATE TABLE ocsp.requester_ca (
    issuer_id  integer     NOT NULL REFERENCES ocsp.issuer,
    sha256     bytea       NOT NULL CHECK (sha256 = sha256(der)),
    der        bytea       NOT NULL,
    added_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    removed_at timestamptz,
    PRIMARY KEY (issuer_id, sha256)
);
CREATE TRIGGER count AFTER INSERT OR UPDATE OR DELETE ON ocsp.requester_ca
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.count_configuration();

-- What a purge looks for, and nothing else.
CREATE INDEX certificate_to_purge ON ocsp.certificate (issuer_id, not_after) WHERE status <> 'purged';

-- As before, but that a row is purged no sooner than its issuer has promised.
CREATE OR REPLACE FUNCTION ocsp.guard_certificate() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    for_public boolean;
    kept       bigint;
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'a status is never deleted' USING ERRCODE = 'restrict_violation';
    END IF;
    IF TG_OP = 'INSERT' AND NEW.status = 'purged' THEN
        RAISE EXCEPTION 'a row begins good or revoked' USING ERRCODE = 'restrict_violation';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.issuer_id, NEW.serial, NEW.not_before, NEW.not_after, NEW.is_ca, NEW.recorded_at)
           IS DISTINCT FROM (OLD.issuer_id, OLD.serial, OLD.not_before, OLD.not_after, OLD.is_ca, OLD.recorded_at) THEN
            RAISE EXCEPTION 'only status, time and reason of a row may change' USING ERRCODE = 'restrict_violation';
        END IF;
        IF NOT (   OLD.status = NEW.status
                OR (OLD.status = 'good' AND NEW.status = 'revoked')
                OR (OLD.status IN ('good', 'revoked') AND NEW.status = 'purged')) THEN
            RAISE EXCEPTION 'a status does not go from % to %', OLD.status, NEW.status
                USING ERRCODE = 'restrict_violation';
        END IF;
        IF OLD.status <> 'purged' AND NEW.status = 'purged' THEN
            -- BR 4.10.1: an entry stays until the certificate has expired. The issuer may have promised more.
            SELECT greatest(retention_seconds, archive_cutoff_seconds, CASE WHEN public THEN 86400 ELSE 0 END)
            INTO kept FROM ocsp.issuer WHERE issuer_id = NEW.issuer_id;
            IF OLD.not_after + make_interval(secs => kept) >= date_trunc('second', now()) THEN
                RAISE EXCEPTION 'a status does not go from % to purged before the issuer''s retention is over', OLD.status
                    USING ERRCODE = 'restrict_violation';
            END IF;
        END IF;
    END IF;
    IF NEW.status = 'revoked' THEN
        SELECT public INTO for_public FROM ocsp.issuer WHERE issuer_id = NEW.issuer_id;
        -- BR 7.2.2 and 7.3: no suspension; a CA certificate's reason must be given; the rest only for what it names.
        IF for_public AND (NEW.reason IN (6, 10)
                           OR (NEW.reason = 2 AND NOT NEW.is_ca) OR (NEW.reason = 0 AND NEW.is_ca)) THEN
            RAISE EXCEPTION 'reason % is not allowed for this certificate of a public issuer (BR 7.2.2, 7.3)', NEW.reason
                USING ERRCODE = 'check_violation', CONSTRAINT = 'reason_is_allowed_for_public';
        END IF;
    END IF;
    RETURN NEW;
END $$;
