DROP FUNCTION mainstay.note_api_key_uses(text[]);
DROP FUNCTION mainstay.find_api_keys(text[]);
DROP TABLE mainstay.api_key_uses;
DROP TABLE mainstay.api_keys;
DELETE FROM mainstay.watches WHERE tbl = 'mainstay.api_keys';
