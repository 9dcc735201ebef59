-- SPDX-License-Identifier: Apache-2.0
-- Several signers for an issuer: staged, active, replaced, retired; at most one active of each kind of key.

ALTER TABLE ocsp.signer ADD COLUMN key_kind text;

-- rsaEncryption and id-ecPublicKey stand in a certificate as the algorithm of its key and nowhere else; what is neither
-- is Ed25519, because nothing else was ever admitted.
UPDATE ocsp.signer
SET key_kind = CASE WHEN position('\x06092a864886f70d010101'::bytea IN certificate) > 0 THEN 'rsa'
                    WHEN position('\x06072a8648ce3d0201'::bytea IN certificate) > 0 THEN 'ecdsa'
                    ELSE 'ed25519' END;

ALTER TABLE ocsp.signer
    ALTER COLUMN key_kind SET NOT NULL,
    ADD CONSTRAINT signer_key_kind_check CHECK (key_kind IN ('rsa', 'ecdsa', 'ed25519')),
    DROP CONSTRAINT signer_state_check,
    ADD CONSTRAINT signer_state_check CHECK (state IN ('staged', 'active', 'replaced', 'retired'));

-- Until now the newest active one signed, and an older one where that was refused: this is what 'replaced' means.
UPDATE ocsp.signer AS s
SET state = CASE older.place WHEN 2 THEN 'replaced' ELSE 'retired' END
FROM (SELECT signer_id, row_number() OVER (PARTITION BY issuer_id, key_kind ORDER BY signer_id DESC) AS place
      FROM ocsp.signer WHERE state = 'active') AS older
WHERE s.signer_id = older.signer_id AND older.place > 1;

CREATE UNIQUE INDEX signer_one_active_of_a_kind ON ocsp.signer (issuer_id, key_kind) WHERE state = 'active';
CREATE UNIQUE INDEX signer_one_replaced_of_a_kind ON ocsp.signer (issuer_id, key_kind) WHERE state = 'replaced';
