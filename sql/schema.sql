-- SPDX-License-Identifier: Apache-2.0
-- The whole schema, as the sum of the migrations leaves it. For reading: `ocsp-admin migrate` applies migrations/, and
-- a test proves that they add up to this file.
--
-- One schema, `ocsp`, every object in it named in full, so that no search_path can point a query elsewhere.
-- Serials are bytea: the minimal big-endian positive integer. Times are timestamptz. Hashes are raw octets.

CREATE SCHEMA ocsp;


-- ------------------------------------------------------------------------------------------------ bookkeeping

-- Which migrations are in, and what their files contained. A changed file is refused, not applied again.
CREATE TABLE ocsp.migration (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    sha256     bytea       NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- For tables that only ever grow: not even their owner edits what is written.
CREATE FUNCTION ocsp.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% only grows: % is refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;


-- ---------------------------------------------------------------------------------------------------- issuers

-- An issuer is a key pair. How its answers are made is here too, so that it changes without a restart.
CREATE TABLE ocsp.issuer (
    issuer_id                integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name                     text        NOT NULL UNIQUE CHECK (name ~ '^\S(.{0,98}\S)?$'),
    spki                     bytea       NOT NULL,
    -- What CT hashes: the whole SubjectPublicKeyInfo (RFC 6962 section 3.2).
    spki_sha256              bytea       NOT NULL UNIQUE CHECK (spki_sha256 = sha256(spki)),
    -- What OCSP hashes: the value of the key's bit string (RFC 6960 section 4.1.1).
    key_sha1                 bytea       NOT NULL CHECK (octet_length(key_sha1) = 20),
    key_sha256               bytea       NOT NULL CHECK (octet_length(key_sha256) = 32),
    key_sha384               bytea       NOT NULL CHECK (octet_length(key_sha384) = 48),
    key_sha512               bytea       NOT NULL CHECK (octet_length(key_sha512) = 64),
    -- Under the Baseline Requirements: what they forbid is refused.
    public                   boolean     NOT NULL DEFAULT true,
    -- The CA key itself may sign answers (BR 7.1.2.10.7 asks for digitalSignature in its keyUsage).
    direct_signing           boolean     NOT NULL DEFAULT false,
    -- Both end seconds included (BR 4.9.9). Code refuses what the rules forbid; these bounds only keep out nonsense.
    validity_seconds         integer     NOT NULL CHECK (validity_seconds > 0),
    refresh_seconds          integer     NOT NULL CHECK (refresh_seconds > 0 AND refresh_seconds < validity_seconds),
    max_age_seconds          integer     NOT NULL CHECK (max_age_seconds BETWEEN 0 AND refresh_seconds),
    unassigned               text        NOT NULL CHECK (unassigned IN ('unknown', 'unauthorized', 'extended-revoke')),
    unknown_validity_seconds integer     NOT NULL CHECK (unknown_validity_seconds > 0),
    added_at                 timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- 'echo': a nonce is repeated, in an answer signed for that one request (RFC 9654).
    nonce                    text        NOT NULL DEFAULT 'off' CHECK (nonce IN ('off', 'echo')),
    -- How far back past expiry answers vouch for statuses (RFC 6960 section 4.4.4). Null: nothing is said of it.
    archive_cutoff_seconds   bigint      CHECK (archive_cutoff_seconds > 0),
    -- How long past expiry a row is kept before it may be purged (RFC 9919 section 3.2.3). Null: for ever.
    retention_seconds        bigint      CHECK (retention_seconds > 0),
    -- Only requests signed under a CA in ocsp.requester_ca are answered (RFC 6960 section 4.1.2).
    require_signed           boolean     NOT NULL DEFAULT false,
    CHECK (NOT (public AND unassigned = 'extended-revoke')),
    -- BR 4.10.1: an entry stays until after the Expiry Date. BR 4.9.9: whoever asks gets an answer.
    CONSTRAINT public_rows_outlive_expiry_by_a_day CHECK (NOT (public AND retention_seconds < 86400)),
    CONSTRAINT public_issuers_answer_everybody CHECK (NOT (public AND require_signed)),
    CONSTRAINT archive_cutoff_within_retention CHECK (archive_cutoff_seconds <= retention_seconds)
);

-- Every CA certificate known for the key: cross-signs and renewals share it. The subject is what CertIDs hash.
CREATE TABLE ocsp.issuer_certificate (
    sha256      bytea       PRIMARY KEY CHECK (sha256 = sha256(der)),
    issuer_id   integer     NOT NULL REFERENCES ocsp.issuer,
    der         bytea       NOT NULL,
    subject     bytea       NOT NULL,
    name_sha1   bytea       NOT NULL CHECK (octet_length(name_sha1) = 20),
    name_sha256 bytea       NOT NULL CHECK (octet_length(name_sha256) = 32),
    name_sha384 bytea       NOT NULL CHECK (octet_length(name_sha384) = 48),
    name_sha512 bytea       NOT NULL CHECK (octet_length(name_sha512) = 64),
    added_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX issuer_certificate_by_issuer ON ocsp.issuer_certificate (issuer_id);

-- Who signs answers for an issuer. The private key is never here, only where it lies.
CREATE TABLE ocsp.signer (
    signer_id    integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer_id    integer     NOT NULL REFERENCES ocsp.issuer,
    certificate  bytea       NOT NULL,
    key_location text        NOT NULL,
    -- staged: every responder tries it, none signs with it. active: signs. replaced: another took over, and it signs
    -- only in a responder that has to refuse that one. retired: never signs again.
    state        text        NOT NULL CHECK (state IN ('staged', 'active', 'replaced', 'retired')),
    added_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    key_kind     text        NOT NULL CHECK (key_kind IN ('rsa', 'ecdsa', 'ed25519'))
);
CREATE INDEX signer_by_issuer ON ocsp.signer (issuer_id);
CREATE UNIQUE INDEX signer_one_active_of_a_kind ON ocsp.signer (issuer_id, key_kind) WHERE state = 'active';
CREATE UNIQUE INDEX signer_one_replaced_of_a_kind ON ocsp.signer (issuer_id, key_kind) WHERE state = 'replaced';

-- CAs under which clients sign their requests, for issuers that answer nobody else. Kept when removed, for auditors.
CREATE TABLE ocsp.requester_ca (
    issuer_id  integer     NOT NULL REFERENCES ocsp.issuer,
    sha256     bytea       NOT NULL CHECK (sha256 = sha256(der)),
    der        bytea       NOT NULL,
    added_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    removed_at timestamptz,
    PRIMARY KEY (issuer_id, sha256)
);

-- Counts up when an issuer, a certificate of one, or a signer changes: responders see it and load them anew.
CREATE TABLE ocsp.configuration (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    generation bigint  NOT NULL DEFAULT 1
);
INSERT INTO ocsp.configuration DEFAULT VALUES;

CREATE FUNCTION ocsp.count_configuration() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE ocsp.configuration SET generation = generation + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER count AFTER INSERT OR UPDATE OR DELETE ON ocsp.issuer
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.count_configuration();
CREATE TRIGGER count AFTER INSERT OR UPDATE OR DELETE ON ocsp.issuer_certificate
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.count_configuration();
CREATE TRIGGER count AFTER INSERT OR UPDATE OR DELETE ON ocsp.signer
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.count_configuration();
CREATE TRIGGER count AFTER INSERT OR UPDATE OR DELETE ON ocsp.requester_ca
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.count_configuration();


-- --------------------------------------------------------------------------------------------------- statuses

-- 'pending' is never a row's status: it is what a reservation without a row means, and how the log below says so.
CREATE TYPE ocsp.status AS ENUM ('pending', 'good', 'revoked', 'purged');

-- One row per certificate whose issuance was proven: this is what is answered from.
CREATE TABLE ocsp.certificate (
    issuer_id   integer     NOT NULL REFERENCES ocsp.issuer,
    serial      bytea       NOT NULL,
    status      ocsp.status NOT NULL,
    revoked_at  timestamptz,
    -- CRLReason, RFC 5280 section 5.3.1. 0 (unspecified) is stored, and left out of answers.
    reason      smallint,
    not_before  timestamptz NOT NULL,
    not_after   timestamptz NOT NULL,
    is_ca       boolean     NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (issuer_id, serial),
    CONSTRAINT serial_is_minimal_and_positive
        CHECK (octet_length(serial) BETWEEN 1 AND 64 AND get_byte(serial, 0) <> 0),
    CONSTRAINT a_row_is_never_pending CHECK (status <> 'pending'),
    CONSTRAINT revoked_has_time_and_reason_and_nothing_else_has
        CHECK ((status = 'revoked') = (revoked_at IS NOT NULL) AND (status = 'revoked') = (reason IS NOT NULL)),
    -- 7 is not in use; 8 (removeFromCRL) belongs to delta CRLs.
    CONSTRAINT reason_is_allowed CHECK (reason IN (0, 1, 2, 3, 4, 5, 6, 9, 10)),
    -- RFC 9919 section 3.2.4: no fractions of seconds.
    CONSTRAINT revoked_at_is_a_whole_second CHECK (revoked_at = date_trunc('second', revoked_at))
);

-- What a purge looks for, and nothing else.
CREATE INDEX certificate_to_purge ON ocsp.certificate (issuer_id, not_after) WHERE status <> 'purged';

-- Knowledge only grows: rows are never deleted, never change identity, and never come back from revoked.
CREATE FUNCTION ocsp.guard_certificate() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON ocsp.certificate
    FOR EACH ROW EXECUTE FUNCTION ocsp.guard_certificate();
CREATE TRIGGER keep BEFORE TRUNCATE ON ocsp.certificate
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.refuse_change();

-- An issuer turns public only when none of its rows says what the Baseline Requirements forbid.
CREATE FUNCTION ocsp.guard_issuer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.public AND NOT OLD.public AND EXISTS (
        SELECT FROM ocsp.certificate
        WHERE issuer_id = NEW.issuer_id AND status = 'revoked'
          AND (reason IN (6, 10) OR (reason = 2 AND NOT is_ca) OR (reason = 0 AND is_ca))
    ) THEN
        RAISE EXCEPTION 'issuer % has revocations with reasons that BR 7.2.2 forbids', NEW.name
            USING ERRCODE = 'check_violation', CONSTRAINT = 'reason_is_allowed_for_public';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON ocsp.issuer FOR EACH ROW EXECUTE FUNCTION ocsp.guard_issuer();

-- Serials promised before anything was signed. Without a row above: neither good nor unknown may be said.
CREATE TABLE ocsp.reservation (
    issuer_id   integer     NOT NULL REFERENCES ocsp.issuer,
    serial      bytea       NOT NULL CHECK (octet_length(serial) BETWEEN 1 AND 64 AND get_byte(serial, 0) <> 0),
    reserved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reserved_by text        NOT NULL DEFAULT session_user,
    PRIMARY KEY (issuer_id, serial)
);
CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON ocsp.reservation
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.refuse_change();

-- Every status ever set, in order. Also the change feed: a reader remembers the oldest transaction that was still
-- open, and asks for everything from there on, so that no open transaction can make it skip a change.
CREATE TABLE ocsp.status_change (
    change_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    issuer_id  integer     NOT NULL REFERENCES ocsp.issuer,
    serial     bytea       NOT NULL,
    old_status ocsp.status,
    new_status ocsp.status NOT NULL,
    revoked_at timestamptz,
    reason     smallint,
    -- The database user, and the person or program it acted for where that was said (setting `ocsp.actor`).
    changed_by text        NOT NULL DEFAULT session_user,
    actor      text
);
CREATE INDEX status_change_by_transaction ON ocsp.status_change (xid);
CREATE INDEX status_change_by_certificate ON ocsp.status_change (issuer_id, serial);
CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON ocsp.status_change
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.refuse_change();

-- Runs with the owner's rights, so that nobody needs the right to write history by hand.
CREATE FUNCTION ocsp.log_certificate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.status, OLD.revoked_at, OLD.reason)
                            IS NOT DISTINCT FROM (NEW.status, NEW.revoked_at, NEW.reason) THEN
        RETURN NULL;
    END IF;
    INSERT INTO ocsp.status_change (issuer_id, serial, old_status, new_status, revoked_at, reason, actor)
    VALUES (NEW.issuer_id, NEW.serial, CASE WHEN TG_OP = 'UPDATE' THEN OLD.status END, NEW.status, NEW.revoked_at,
            NEW.reason, nullif(current_setting('ocsp.actor', true), ''));
    RETURN NULL;
END $$;
CREATE TRIGGER log AFTER INSERT OR UPDATE ON ocsp.certificate
    FOR EACH ROW EXECUTE FUNCTION ocsp.log_certificate();

CREATE FUNCTION ocsp.log_reservation() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ocsp.status_change (issuer_id, serial, new_status, actor)
    VALUES (NEW.issuer_id, NEW.serial, 'pending', nullif(current_setting('ocsp.actor', true), ''));
    RETURN NULL;
END $$;
CREATE TRIGGER log AFTER INSERT ON ocsp.reservation
    FOR EACH ROW EXECUTE FUNCTION ocsp.log_reservation();


-- ---------------------------------------------------------------------------------------- sources and evidence

-- Where knowledge comes from. A required source that is stale turns `unknown` into tryLater: this table is all that
-- the responder reads of the reconciler's work.
CREATE TABLE ocsp.source (
    source_id       integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text        NOT NULL UNIQUE CHECK (name <> ''),
    kind            text        NOT NULL,
    required        boolean     NOT NULL,
    -- In the reconciler's configuration now. A source leaves the set only by a recorded change of it.
    configured      boolean     NOT NULL DEFAULT true,
    stale_after     interval    NOT NULL DEFAULT '15 minutes' CHECK (stale_after > '0'),
    -- Everything that the source had shown up to then has been read and verified.
    verified_at     timestamptz,
    attempted_at    timestamptz,
    trouble         text,
    -- The source contradicted itself: its coverage counts as stale until a person excludes or trusts it again.
    distrusted_at   timestamptz,
    distrust_reason text,
    excluded_at     timestamptz,
    excluded_reason text,
    excluded_by     text,
    CHECK ((distrusted_at IS NULL) = (distrust_reason IS NULL)),
    CHECK ((excluded_at IS NULL) = (excluded_reason IS NULL) AND (excluded_at IS NULL) = (excluded_by IS NULL))
);

-- Every change of the set of sources and of the trust in them, with who made it.
CREATE TABLE ocsp.source_change (
    change_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id  integer     NOT NULL REFERENCES ocsp.source,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by text        NOT NULL DEFAULT session_user,
    actor      text,
    what       text        NOT NULL
);
CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON ocsp.source_change
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.refuse_change();

CREATE FUNCTION ocsp.log_source() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor text := nullif(current_setting('ocsp.actor', true), '');
    what  text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        what := format('added: %s, required %s, stale after %s', NEW.kind, NEW.required, NEW.stale_after);
    ELSIF OLD.configured AND NOT NEW.configured THEN
        what := 'left the configuration';
    ELSIF NEW.configured AND NOT OLD.configured THEN
        what := 'came back into the configuration';
    ELSIF (OLD.kind, OLD.required, OLD.stale_after) IS DISTINCT FROM (NEW.kind, NEW.required, NEW.stale_after) THEN
        what := format('now: %s, required %s, stale after %s', NEW.kind, NEW.required, NEW.stale_after);
    ELSIF OLD.distrusted_at IS NULL AND NEW.distrusted_at IS NOT NULL THEN
        what := 'distrusted: ' || NEW.distrust_reason;
    ELSIF OLD.distrusted_at IS NOT NULL AND NEW.distrusted_at IS NULL THEN
        what := 'trusted again';
    ELSIF OLD.excluded_at IS NULL AND NEW.excluded_at IS NOT NULL THEN
        what := format('excluded by %s: %s', NEW.excluded_by, NEW.excluded_reason);
    ELSIF OLD.excluded_at IS NOT NULL AND NEW.excluded_at IS NULL THEN
        what := 'no longer excluded';
    ELSE
        RETURN NULL;
    END IF;
    INSERT INTO ocsp.source_change (source_id, actor, what) VALUES (NEW.source_id, actor, what);
    RETURN NULL;
END $$;
CREATE TRIGGER log AFTER INSERT OR UPDATE ON ocsp.source
    FOR EACH ROW EXECUTE FUNCTION ocsp.log_source();

-- What people register by hand is a source like any other; nothing waits for it.
INSERT INTO ocsp.source (name, kind, required) VALUES ('ocsp-admin', 'registration', false);

-- Documents as we saw them, once each.
CREATE TABLE ocsp.document (
    sha256 bytea PRIMARY KEY CHECK (sha256 = sha256(der)),
    der    bytea NOT NULL
);
CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON ocsp.document
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.refuse_change();

-- Every fact about a certificate: which source showed which document, where and when. Apart from its one status row.
CREATE TABLE ocsp.sighting (
    sighting_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer_id   integer     NOT NULL,
    serial      bytea       NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('precertificate', 'certificate')),
    source_id   integer     NOT NULL REFERENCES ocsp.source,
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    sha256      bytea       NOT NULL REFERENCES ocsp.document,
    -- In a CT log: the entry's index and its timestamp. In a file: its name and the record's first octet.
    log_index   bigint      CHECK (log_index >= 0),
    logged_at   timestamptz,
    file        text,
    file_offset bigint      CHECK (file_offset >= 0),
    FOREIGN KEY (issuer_id, serial) REFERENCES ocsp.certificate,
    CONSTRAINT one_place CHECK ((log_index IS NULL) = (logged_at IS NULL) AND (file IS NULL) = (file_offset IS NULL)
                                AND (log_index IS NULL) <> (file IS NULL))
);
-- Replaying a source changes nothing: a document at an index of a log is one fact, and so is one in a file source.
CREATE UNIQUE INDEX sighting_once_per_entry
    ON ocsp.sighting (source_id, log_index, sha256) WHERE log_index IS NOT NULL;
CREATE UNIQUE INDEX sighting_once_per_document ON ocsp.sighting (source_id, sha256) WHERE log_index IS NULL;
CREATE INDEX sighting_by_certificate ON ocsp.sighting (issuer_id, serial);
-- Sightings come in the order of their time, so a few octets for each stretch of pages find the recent ones.
CREATE INDEX sighting_by_time ON ocsp.sighting USING brin (seen_at);
CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON ocsp.sighting
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.refuse_change();

-- Evidence that proves no issuance: raw bytes, where they stood, and why they earned no row.
CREATE TABLE ocsp.quarantine (
    quarantine_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id     integer     NOT NULL REFERENCES ocsp.source,
    seen_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason        text        NOT NULL,
    detail        text        NOT NULL,
    sha256        bytea       NOT NULL CHECK (sha256 = sha256(raw)),
    raw           bytea       NOT NULL,
    log_index     bigint,
    file          text,
    file_offset   bigint
);
CREATE UNIQUE INDEX quarantine_once_per_entry
    ON ocsp.quarantine (source_id, log_index, sha256, reason) WHERE log_index IS NOT NULL;
CREATE UNIQUE INDEX quarantine_once_per_document
    ON ocsp.quarantine (source_id, sha256, reason) WHERE log_index IS NULL;
CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON ocsp.quarantine
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.refuse_change();

-- What a person must look at. Each finding is written once, however often its cause is read again.
CREATE TABLE ocsp.finding (
    finding_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    found_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind       text        NOT NULL,
    severity   text        NOT NULL CHECK (severity IN ('low', 'high', 'critical')),
    source_id  integer     NOT NULL REFERENCES ocsp.source,
    issuer_id  integer     REFERENCES ocsp.issuer,
    serial     bytea,
    -- What tells this finding from others of its kind and source.
    subject    text        NOT NULL,
    detail     text        NOT NULL,
    UNIQUE (kind, source_id, subject)
);
CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON ocsp.finding
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.refuse_change();

-- Serials that were asked for and not known, for the reconciler to hunt.
CREATE TABLE ocsp.unanswered (
    issuer_id   integer     NOT NULL REFERENCES ocsp.issuer,
    serial      bytea       NOT NULL,
    answer      text        NOT NULL,
    times       bigint      NOT NULL DEFAULT 1,
    first_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (issuer_id, serial)
);


-- --------------------------------------------------------------------------------- the reconciler's positions

-- How far a CT log has been read. `position` and `range` move with the rows they cover, by compare-and-swap; the
-- verified pair follows when the leaves read have met a signed root.
CREATE TABLE ocsp.ct_position (
    source_id      integer PRIMARY KEY REFERENCES ocsp.source,
    log_id         bytea   NOT NULL CHECK (octet_length(log_id) = 32),
    started_at     bigint  NOT NULL CHECK (started_at >= 0),
    position       bigint  NOT NULL,
    -- The compact range of [0, position): one node per set bit, largest subtree first (RFC 6962 section 2.1).
    range          bytea   NOT NULL,
    verified_size  bigint  NOT NULL,
    verified_range bytea   NOT NULL,
    CHECK (0 <= verified_size AND verified_size <= position AND started_at <= position)
);

-- Positions of logs never go back but to what was verified, and what was verified never goes back.
CREATE FUNCTION ocsp.guard_ct_position() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.log_id <> OLD.log_id OR NEW.verified_size < OLD.verified_size
       OR (NEW.position < OLD.position AND NEW.position <> OLD.verified_size) THEN
        RAISE EXCEPTION 'the position of a log does not go back' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON ocsp.ct_position
    FOR EACH ROW EXECUTE FUNCTION ocsp.guard_ct_position();

-- Every signed head a log has shown us: the proof of a fork or a rollback is two of them.
CREATE TABLE ocsp.ct_head (
    source_id    integer     NOT NULL REFERENCES ocsp.source,
    tree_size    bigint      NOT NULL CHECK (tree_size >= 0),
    root         bytea       NOT NULL CHECK (octet_length(root) = 32),
    signed_at    timestamptz NOT NULL,
    raw          bytea       NOT NULL,
    first_seen   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source_id, tree_size, root)
);
CREATE TRIGGER keep BEFORE DELETE OR TRUNCATE ON ocsp.ct_head
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.refuse_change();

-- What a log did that took our trust: the raw heads, leaves and hashes that show it.
CREATE TABLE ocsp.ct_proof (
    proof_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id integer     NOT NULL REFERENCES ocsp.source,
    found_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind      text        NOT NULL,
    name      text        NOT NULL,
    content   bytea       NOT NULL
);
CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON ocsp.ct_proof
    FOR EACH STATEMENT EXECUTE FUNCTION ocsp.refuse_change();

-- How far a growing file has been read. A file is its inode, whatever it is called by now.
CREATE TABLE ocsp.file_position (
    source_id integer     NOT NULL REFERENCES ocsp.source,
    device    bigint      NOT NULL,
    inode     bigint      NOT NULL,
    path      text        NOT NULL,
    position  bigint      NOT NULL CHECK (position >= 0),
    -- The octets before the position, hashed: another file under an old inode number is told apart by them.
    tail_sha256 bytea     NOT NULL,
    tail_octets integer   NOT NULL CHECK (tail_octets >= 0),
    finished    boolean   NOT NULL DEFAULT false,
    first_read  timestamptz NOT NULL DEFAULT clock_timestamp(),
    moved_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source_id, device, inode)
);

-- Which files of a spool are done, by name and everything that changes when a file is replaced.
CREATE TABLE ocsp.spool_file (
    source_id integer     NOT NULL REFERENCES ocsp.source,
    name      text        NOT NULL,
    inode     bigint      NOT NULL,
    octets    bigint      NOT NULL,
    mtime_ns  bigint      NOT NULL,
    done_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source_id, name, inode, octets, mtime_ns)
);


-- ------------------------------------------------------------------------------------------ answers signed ahead

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
