package reader;

import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A parser of JSON: objects are maps, whole numbers BigInteger, other numbers Double (format.md, section 2). */
final class Json {
    static class Refused extends RuntimeException {
        private static final long serialVersionUID = 1;
        final String word;

        Refused(String word, String why) {
            super(why);
            this.word = word;
        }
    }

    /** Refuses the bundle unless a condition holds; ground: of format.md, section 8. */
    static void check(boolean fine, int ground) {
        if (!fine) throw new Refused("damaged", "R" + ground);
    }

    final String text;
    int at = 0;

    Json(byte[] data) {
        try {
            text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(data)).toString();
        } catch (CharacterCodingException error) {
            throw new Refused("damaged", "R7");
        }
    }

    static Object parse(byte[] data) {
        Json json = new Json(data);
        Object value = json.value(1);
        json.space();
        check(json.at == json.text.length(), 7);
        return value;
    }

    void space() {
        while (at < text.length() && " \t\n\r".indexOf(text.charAt(at)) >= 0) at++;
    }

    boolean take(String word) {
        space();
        if (!text.startsWith(word, at)) return false;
        at += word.length();
        return true;
    }

    Object value(int depth) {
        if (take("{")) {
            check(depth <= 64, 7);
            Map<String, Object> object = new LinkedHashMap<>();
            for (boolean first = true; !take("}"); first = false) {
                check(first || take(","), 7);
                check(take("\""), 7);
                String key = string();
                check(take(":") && !object.containsKey(key), 7);
                object.put(key, value(depth + 1));
            }
            return object;
        }
        if (take("[")) {
            check(depth <= 64, 7);
            List<Object> list = new ArrayList<>();
            for (boolean first = true; !take("]"); first = false) {
                check(first || take(","), 7);
                list.add(value(depth + 1));
            }
            return list;
        }
        if (take("\"")) return string();
        if (take("true")) return true;
        if (take("false")) return false;
        if (take("null")) return null;
        Matcher number = NUMBER.matcher(text).region(at, text.length());
        check(number.lookingAt(), 7);
        at = number.end();
        if (number.group(1) == null && number.group(2) == null) return new BigInteger(number.group());
        double real = Double.parseDouble(number.group());
        check(Double.isFinite(real), 7);
        return real;
    }

    static final Pattern NUMBER = Pattern.compile("-?(?:0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?");

    String string() {
        StringBuilder out = new StringBuilder();
        for (;;) {
            check(at < text.length(), 7);
            char c = text.charAt(at++);
            if (c == '"') break;
            check(c >= 32, 7);
            if (c != '\\') {
                out.append(c);
                continue;
            }
            check(at < text.length(), 7);
            int which = "\"\\/bfnrtu".indexOf(text.charAt(at++));
            check(which >= 0, 7);
            if (which < 8) {
                out.append("\"\\/\b\f\n\r\t".charAt(which));
                continue;
            }
            check(at + 4 <= text.length() && text.substring(at, at + 4).matches("[0-9a-fA-F]{4}"), 7);
            out.append((char) Integer.parseInt(text.substring(at, at + 4), 16));
            at += 4;
        }
        String made = out.toString();
        check(made.codePoints().noneMatch(c -> c >= 0xD800 && c < 0xE000), 7);
        return made;
    }
}
