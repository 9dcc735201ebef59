-- SPDX-License-Identifier: Apache-2.0
-- The three roles and the least each needs. `ocsp-admin migrate` applies this after every migration; a database
-- administrator may as well run it with psql. Idempotent. Roles belong to the whole server, so they are only created
-- where they are missing; how they log in (peer, certificate, password) is the administrator's choice.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['ocsp_responder', 'ocsp_reconciler', 'ocsp_admin'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
                EXECUTE format('CREATE ROLE %I LOGIN', wanted);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- somebody migrating another database of this server was faster
        END;
    END LOOP;
END $$;

REVOKE ALL ON SCHEMA ocsp FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA ocsp FROM PUBLIC, ocsp_responder, ocsp_reconciler, ocsp_admin;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA ocsp FROM PUBLIC, ocsp_responder, ocsp_reconciler, ocsp_admin;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ocsp FROM PUBLIC;
GRANT USAGE ON SCHEMA ocsp TO ocsp_responder, ocsp_reconciler, ocsp_admin;

-- The responder reads what it answers from, and writes down what it could not answer. Nothing else.
GRANT SELECT ON ocsp.migration, ocsp.configuration, ocsp.issuer, ocsp.issuer_certificate, ocsp.signer,
                ocsp.requester_ca, ocsp.certificate, ocsp.reservation, ocsp.status_change, ocsp.source, ocsp.unanswered
    TO ocsp_responder;
GRANT INSERT ON ocsp.unanswered TO ocsp_responder;
GRANT UPDATE (answer, times, last_at) ON ocsp.unanswered TO ocsp_responder;
-- It keeps what it signed ahead, and the queue of what to sign. That it may delete there takes nothing from anybody:
-- these are signatures and work to do, and both are made again from the tables above, which stay out of reach.
GRANT SELECT, INSERT, UPDATE, DELETE ON ocsp.stored_answer, ocsp.presign_job, ocsp.asked TO ocsp_responder;

-- The reconciler inserts what it proves, and moves its own positions. It can neither update nor delete a status, so it
-- can never revoke, un-revoke or correct.
GRANT SELECT ON ALL TABLES IN SCHEMA ocsp TO ocsp_reconciler;
GRANT INSERT ON ocsp.certificate, ocsp.document, ocsp.sighting, ocsp.quarantine, ocsp.finding, ocsp.source,
                ocsp.ct_position, ocsp.ct_head, ocsp.ct_proof, ocsp.file_position, ocsp.spool_file
    TO ocsp_reconciler;
GRANT UPDATE (kind, required, configured, stale_after, verified_at, attempted_at, trouble, distrusted_at,
              distrust_reason)
    ON ocsp.source TO ocsp_reconciler;
GRANT UPDATE ON ocsp.ct_position, ocsp.file_position TO ocsp_reconciler;
GRANT UPDATE (signed_at, raw) ON ocsp.ct_head TO ocsp_reconciler;

-- People register, revoke and correct; they exclude sources and trust them again. History stays out of reach.
GRANT SELECT ON ALL TABLES IN SCHEMA ocsp TO ocsp_admin;
GRANT INSERT ON ocsp.issuer, ocsp.issuer_certificate, ocsp.signer, ocsp.requester_ca, ocsp.certificate,
                ocsp.reservation, ocsp.document, ocsp.sighting, ocsp.quarantine, ocsp.finding
    TO ocsp_admin;
GRANT UPDATE (name, public, direct_signing, validity_seconds, refresh_seconds, max_age_seconds, unassigned,
              unknown_validity_seconds, nonce, archive_cutoff_seconds, retention_seconds, require_signed)
    ON ocsp.issuer TO ocsp_admin;
GRANT UPDATE (removed_at) ON ocsp.requester_ca TO ocsp_admin;
GRANT UPDATE (state, key_location) ON ocsp.signer TO ocsp_admin;
GRANT UPDATE (status, revoked_at, reason) ON ocsp.certificate TO ocsp_admin;
GRANT UPDATE (distrusted_at, distrust_reason, excluded_at, excluded_reason, excluded_by) ON ocsp.source TO ocsp_admin;
GRANT UPDATE (position, range) ON ocsp.ct_position TO ocsp_admin;
