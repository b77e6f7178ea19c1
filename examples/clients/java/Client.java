// Sends an image to `maskline serve`; writes the masks of its instances and the rendered image.
// Java 11 or newer with Gson.

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

public final class Client {
    private static final int ATTEMPTS = 5; // to reach a busy server
    private static final int MAX_WAIT = 60; // seconds between two of them

    private static final String USAGE = String.join("\n",
        "usage: Client [OPTIONS] IMAGE OUTPUT_FOLDER",
        "  --url URL      of the server (default http://127.0.0.1:8080)",
        "  --threshold T  lowest score, 0 to 1",
        "  --no-image     do not render the image",
        "  --timeout S    seconds (default 60)",
        "MASKLINE_API_KEY in the environment is sent as the API key.");

    /** An error reported in one line. */
    private static final class Fault extends Exception {
        Fault(String message) {
            super(message);
        }
    }

    private static final class Usage extends Exception {
        Usage(String message) {
            super(message);
        }
    }

    private static final class Options {
        String url = "http://127.0.0.1:8080";
        Double threshold;
        boolean visualize = true;
        double timeout = 60;
        Path image;
        Path folder;
    }

    // Gson fills these by name; missing fields stay null.
    private static final class Result {
        List<Instance> instances;
        String image;
        int[] size; // height, width
    }

    private static final class Instance {
        double[] bbox; // x0, y0, x1, y1
        String categoryName;
        double score;
        Mask mask;
    }

    private static final class Mask {
        String rleResult;
        int[] size; // rows, columns
    }

    public static void main(String[] arguments) throws InterruptedException {
        System.exit(status(arguments));
    }

    private static int status(String[] arguments) throws InterruptedException {
        try {
            run(commandLine(arguments));
            return 0;
        } catch (Usage fault) {
            System.err.println("error: " + fault.getMessage() + "\n" + USAGE);
            return 2;
        } catch (Fault fault) {
            return fail(fault.getMessage());
        } catch (IOException fault) { // the message alone may be no more than a path
            return fail(fault.toString());
        }
    }

    private static int fail(String message) {
        System.err.println("error: " + message.replaceAll("\\s+", " "));
        return 1;
    }

    private static Options commandLine(String[] arguments) throws Usage {
        Options options = new Options();
        List<String> rest = new ArrayList<>();
        for (int i = 0; i < arguments.length; i++) {
            String name = arguments[i];
            boolean valued = List.of("--url", "--threshold", "--timeout").contains(name);
            if (valued && i + 1 == arguments.length) {
                throw new Usage(name + " needs a value");
            }
            String value = valued ? arguments[++i] : "";
            switch (name) {
                case "--url": options.url = value; break;
                case "--threshold": options.threshold = number(value, 0, 1); break;
                case "--timeout": options.timeout = number(value, 0.001, 86400); break;
                case "--no-image": options.visualize = false; break;
                default:
                    if (name.startsWith("--")) {
                        throw new Usage("there is no option " + name);
                    }
                    rest.add(name);
            }
        }
        if (rest.size() != 2) {
            throw new Usage("IMAGE and OUTPUT_FOLDER are needed");
        }
        options.image = Path.of(rest.get(0));
        options.folder = Path.of(rest.get(1));
        return options;
    }

    private static double number(String text, double low, double high) throws Usage {
        double value;
        try {
            value = Double.parseDouble(text);
        } catch (NumberFormatException fault) {
            value = Double.NaN;
        }
        if (!(low <= value && value <= high)) {
            throw new Usage("'" + text + "' is not a number from " + low + " to " + high);
        }
        return value;
    }

    private static void run(Options options) throws Fault, IOException, InterruptedException {
        JsonObject request = new JsonObject();
        request.addProperty("image", Base64.getEncoder().encodeToString(read(options.image)));
        request.addProperty("visualize", options.visualize);
        if (options.threshold != null) {
            request.addProperty("threshold", options.threshold);
        }
        Result result = result(ask(options, request.toString()));
        byte[] pgm = labelImage(result);
        Files.createDirectories(options.folder);
        Files.write(options.folder.resolve("masks.pgm"), pgm);
        if (result.image != null) {
            Files.write(options.folder.resolve("rendered.jpg"), fromBase64(result.image));
        }
    }

    private static byte[] read(Path image) throws Fault {
        try {
            return Files.readAllBytes(image);
        } catch (IOException fault) {
            throw new Fault(image + " can't be read: " + fault);
        }
    }

    private static byte[] fromBase64(String text) throws Fault {
        try {
            return Base64.getDecoder().decode(text);
        } catch (IllegalArgumentException fault) {
            throw new Fault("unexpected answer: the image is not valid Base64");
        }
    }

    /** The server's answer. If it is busy (429, 503), the request is repeated after Retry-After. */
    private static JsonObject ask(Options options, String body) throws Fault, InterruptedException {
        String url = options.url.replaceAll("/+$", "") + "/instance-segmentation";
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = request(url, body);
        for (int attempt = 1; ; attempt++) {
            HttpResponse<String> response = send(client, request, options.timeout);
            int status = response.statusCode();
            if (status != 429 && status != 503 || attempt == ATTEMPTS) {
                return checked(url, response);
            }
            int wait = seconds(response.headers().firstValue("Retry-After").orElse(""));
            System.err.println("busy (" + status + "): again in " + wait + " s");
            TimeUnit.SECONDS.sleep(wait);
        }
    }

    private static HttpRequest request(String url, String body) throws Fault {
        try {
            HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url))
                .version(HttpClient.Version.HTTP_1_1) // else plain HTTP is asked to become HTTP/2
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body));
            String key = System.getenv("MASKLINE_API_KEY");
            if (key != null && !key.isEmpty()) {
                request.header("Authorization", "Bearer " + key);
            }
            return request.build();
        } catch (IllegalArgumentException fault) {
            throw new Fault("no answer from " + url + ": " + fault.getMessage());
        }
    }

    private static HttpResponse<String> send(HttpClient client, HttpRequest request, double timeout)
            throws Fault, InterruptedException {
        String failed = "no answer from " + request.uri() + ": ";
        try {
            // HttpRequest's own timeout would end with the headers; this one includes the body.
            return client.sendAsync(request, HttpResponse.BodyHandlers.ofString())
                .get(Math.round(timeout * 1000), TimeUnit.MILLISECONDS);
        } catch (TimeoutException fault) {
            throw new Fault(failed + "timed out");
        } catch (ExecutionException fault) {
            throw new Fault(failed + fault.getCause());
        }
    }

    /** Seconds to wait, with a default if the header is missing or a date. */
    private static int seconds(String retryAfter) {
        return retryAfter.matches("\\d{1,9}") ? Math.min(Integer.parseInt(retryAfter), MAX_WAIT) : 1;
    }

    /** The answer, if successful. */
    private static JsonObject checked(String url, HttpResponse<String> response) throws Fault {
        int status = response.statusCode();
        JsonObject answer;
        try {
            answer = JsonParser.parseString(response.body()).getAsJsonObject();
        } catch (JsonParseException | IllegalStateException fault) {
            throw new Fault(url + " answered " + status + " without a JSON object");
        }
        if (status != 200 || !"0".equals(text(answer, "errorCode"))) {
            throw new Fault(status + ": " + text(answer, "errorMsg") + " (logId " + text(answer, "logId") + ")");
        }
        return answer;
    }

    private static String text(JsonObject answer, String name) {
        return answer.has(name) && answer.get(name).isJsonPrimitive() ? answer.get(name).getAsString() : "";
    }

    private static Result result(JsonObject answer) throws Fault {
        Result result;
        try {
            result = new Gson().fromJson(answer.get("result"), Result.class);
        } catch (JsonParseException fault) {
            throw new Fault("unexpected answer: " + fault.getMessage());
        }
        boolean whole = result != null && result.instances != null && isSize(result.size)
            && result.instances.stream().allMatch(one -> one != null && one.bbox != null && one.bbox.length == 4
                && one.mask != null && one.mask.rleResult != null && isSize(one.mask.size));
        if (!whole) {
            throw new Fault("unexpected answer: a field is missing or malformed");
        }
        return result;
    }

    private static boolean isSize(int[] size) {
        return size != null && size.length == 2 && Math.min(size[0], size[1]) >= 0
            && (long) size[0] * size[1] < 1 << 30;
    }

    /** Prints the instances, best first, and numbers their pixels 1, 2, ... in a PGM image of 16 bits. */
    private static byte[] labelImage(Result result) throws Fault {
        int height = result.size[0], width = result.size[1];
        byte[] head = ("P5\n" + width + " " + height + "\n65535\n").getBytes(StandardCharsets.US_ASCII);
        ByteBuffer pgm = ByteBuffer.allocate(head.length + 2 * height * width).put(head); // high byte first
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        short number = 0;
        for (Instance one : result.instances) {
            number++;
            double top = Math.rint(one.bbox[1]), left = Math.rint(one.bbox[0]); // half to even, as the server does
            int rows = one.mask.size[0], cols = one.mask.size[1];
            if (Math.min(top, left) < 0 || top + rows > height || left + cols > width) {
                throw new Fault("unexpected answer: a mask exceeds the image");
            }
            boolean[] mask = decodeRle(one.mask.rleResult, rows, cols);
            int pixels = 0;
            for (int at = 0; at < mask.length; at++) {
                if (mask[at]) {
                    pixels++;
                    int place = head.length + 2 * (((int) top + at / cols) * width + (int) left + at % cols);
                    if (pgm.getShort(place) == 0) {
                        pgm.putShort(place, number);
                    }
                }
            }
            out.printf(Locale.ROOT, "%.4f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t%s\n",
                one.score, one.bbox[0], one.bbox[1], one.bbox[2], one.bbox[3], pixels, one.categoryName);
        }
        return pgm.array();
    }

    /**
     * The mask, row by row, decoded from COCO's compressed RLE.
     *
     * <p>Runs of background and foreground in turn, background first, go down the columns. From the fourth on, the
     * difference to the run two places earlier is written. A number comes in groups of five bits, lowest first, the
     * last one's highest bit its sign; 32 is added where more groups follow, and 48 to make it a character.
     */
    private static boolean[] decodeRle(String counts, int rows, int cols) throws Fault {
        boolean[] mask = new boolean[rows * cols];
        List<Long> runs = new ArrayList<>();
        int at = 0;
        int shift = 0;
        long value = 0;
        for (char character : counts.toCharArray()) {
            long group = character - 48;
            value += (group & 31) << shift;
            shift += 5;
            if ((group & 32) != 0 && shift < 60) {
                continue;
            }
            value -= (group & 16) << (shift - 4);
            value += runs.size() > 2 ? runs.get(runs.size() - 2) : 0;
            if (value < 0 || value > mask.length - at) {
                break;
            }
            for (long end = at + value; at < end; at++) {
                mask[at % rows * cols + at / rows] = runs.size() % 2 == 1;
            }
            runs.add(value);
            value = shift = 0;
        }
        if (at != mask.length || shift != 0) {
            throw new Fault("unexpected answer: RLE does not match " + rows + " x " + cols + " pixels");
        }
        return mask;
    }
}
