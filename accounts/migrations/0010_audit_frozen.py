from django.db import migrations

# Only an erasure, which sets tiebreak.erasing, may change an entry, and only its texts.
FREEZE = """
CREATE FUNCTION tiebreak_audit_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND coalesce(current_setting('tiebreak.erasing', true), '') = 'on'
        AND (OLD.id, OLD.at, OLD.user_id, OLD.action)
            IS NOT DISTINCT FROM (NEW.id, NEW.at, NEW.user_id, NEW.action) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'entry % of the audit trail cannot be changed or deleted', OLD.id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER audit_frozen
    BEFORE DELETE OR UPDATE ON accounts_auditentry
    FOR EACH ROW EXECUTE FUNCTION tiebreak_audit_frozen();
"""
UNFREEZE = """
DROP TRIGGER audit_frozen ON accounts_auditentry;
DROP FUNCTION tiebreak_audit_frozen();
"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0009_audit_clock")]

    operations = [migrations.RunSQL(FREEZE, UNFREEZE)]
