// Sends an image to `maskline serve`; writes the masks of its instances and the rendered image.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	attempts  = 5       // to reach a busy server
	maxWait   = 60      // seconds between two of them
	maxPixels = 1 << 30 // of an image
)

type options struct {
	url       string
	threshold *float64
	noImage   bool
	timeout   *float64 // seconds
	image     string
	folder    string
}

// request is the body; encoding/json writes []byte as Base64.
type request struct {
	Image     []byte   `json:"image"`
	Threshold *float64 `json:"threshold,omitempty"`
	Visualize bool     `json:"visualize"`
}

type answer struct {
	LogID     string  `json:"logId"`
	ErrorCode *int    `json:"errorCode"`
	ErrorMsg  string  `json:"errorMsg"`
	Result    *result `json:"result"`
}

type result struct {
	Instances []instance `json:"instances"`
	Image     []byte     `json:"image"`
	Size      []int      `json:"size"` // height, width
}

type instance struct {
	Bbox         []float64 `json:"bbox"` // x0, y0, x1, y1
	CategoryName string    `json:"categoryName"`
	Score        float64   `json:"score"`
	Mask         struct {
		RleResult string `json:"rleResult"`
		Size      []int  `json:"size"` // rows, columns
	} `json:"mask"`
}

func main() {
	if err := run(commandLine()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
}

func commandLine() options {
	seconds := 60.0
	o := options{timeout: &seconds}
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: client [OPTIONS] IMAGE OUTPUT_FOLDER\n"+
			"MASKLINE_API_KEY in the environment is sent as the API key.")
		flag.PrintDefaults()
	}
	flag.StringVar(&o.url, "url", "http://127.0.0.1:8080", "URL of the server")
	flag.Func("threshold", "lowest score, 0 to 1", func(text string) (err error) {
		o.threshold, err = number(text, 0, 1)
		return err
	})
	flag.BoolVar(&o.noImage, "no-image", false, "do not render the image")
	flag.Func("timeout", "seconds (default 60)", func(text string) (err error) {
		o.timeout, err = number(text, 0.001, 86400)
		return err
	})
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	o.image, o.folder = flag.Arg(0), flag.Arg(1)
	return o
}

func number(text string, low, high float64) (*float64, error) {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || !(low <= value && value <= high) {
		return nil, fmt.Errorf("expected a number from %g to %g", low, high)
	}
	return &value, nil
}

func run(o options) error {
	content, err := os.ReadFile(o.image)
	if err != nil {
		return fmt.Errorf("%s can't be read: %w", o.image, err)
	}
	body, err := json.Marshal(request{content, o.threshold, !o.noImage})
	if err != nil {
		return err
	}
	timeout := time.Duration(*o.timeout * float64(time.Second))
	found, err := ask(strings.TrimRight(o.url, "/")+"/instance-segmentation", body, timeout)
	if err != nil {
		return err
	}
	labels, err := labelImage(found)
	if err != nil {
		return fmt.Errorf("unexpected answer: %w", err)
	}
	return write(o.folder, found, labels)
}

// ask returns the server's answer. If it is busy (429, 503), the request is repeated after Retry-After.
func ask(url string, body []byte, timeout time.Duration) (*result, error) {
	client := http.Client{Timeout: timeout}
	for attempt := 1; ; attempt++ {
		response, text, err := post(&client, url, body)
		if err != nil {
			return nil, fmt.Errorf("no answer from %s: %w", url, err)
		}
		status := response.StatusCode
		busy := status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
		if !busy || attempt == attempts {
			return checked(url, status, text)
		}
		wait := seconds(response.Header.Get("Retry-After"))
		fmt.Fprintf(os.Stderr, "busy (%d): again in %d s\n", status, wait)
		time.Sleep(time.Duration(wait) * time.Second)
	}
}

func post(client *http.Client, url string, body []byte) (*http.Response, []byte, error) {
	asked, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	asked.Header.Set("Content-Type", "application/json")
	if key := os.Getenv("MASKLINE_API_KEY"); key != "" {
		asked.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := client.Do(asked)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response, text, err
}

// seconds returns the time to wait, with a default if the header is missing or a date.
func seconds(retryAfter string) int {
	wait, err := strconv.Atoi(retryAfter)
	if err != nil || wait < 0 {
		return 1
	}
	if wait > maxWait {
		return maxWait
	}
	return wait
}

// checked returns the result, if the answer is successful.
func checked(url string, status int, text []byte) (*result, error) {
	var found *answer
	err := json.Unmarshal(text, &found)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		return nil, fmt.Errorf("unexpected answer: %w", err)
	}
	if err != nil || found == nil {
		return nil, fmt.Errorf("%s answered %d without a JSON object", url, status)
	}
	if status != http.StatusOK || found.ErrorCode == nil || *found.ErrorCode != 0 {
		return nil, fmt.Errorf("%d: %s (logId %s)", status, found.ErrorMsg, found.LogID)
	}
	if found.Result == nil {
		return nil, errors.New("unexpected answer: no result")
	}
	return found.Result, nil
}

// labelImage prints the instances, best first, and numbers their pixels 1, 2, ... in an image of height x width.
func labelImage(found *result) ([]uint16, error) {
	if len(found.Size) != 2 || found.Size[0] < 0 || found.Size[1] < 0 || found.Size[0]*found.Size[1] > maxPixels {
		return nil, fmt.Errorf("the image's size is %v", found.Size)
	}
	height, width := found.Size[0], found.Size[1]
	labels := make([]uint16, height*width)
	for i, one := range found.Instances {
		if len(one.Bbox) != 4 || len(one.Mask.Size) != 2 {
			return nil, fmt.Errorf("instance %d has no bbox of 4 or size of 2 numbers", i)
		}
		// Half to even, as the server does.
		top, left := int(math.RoundToEven(one.Bbox[1])), int(math.RoundToEven(one.Bbox[0]))
		rows, cols := one.Mask.Size[0], one.Mask.Size[1]
		if min(top, left, rows, cols) < 0 || top > height-rows || left > width-cols {
			return nil, errors.New("a mask exceeds the image")
		}
		mask, err := decodeRle(one.Mask.RleResult, rows, cols)
		if err != nil {
			return nil, err
		}
		pixels := 0
		for at, inside := range mask {
			if !inside {
				continue
			}
			pixels++
			if label := &labels[(top+at/cols)*width+left+at%cols]; *label == 0 {
				*label = uint16(i + 1)
			}
		}
		box := one.Bbox
		fmt.Printf("%.4f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t%s\n",
			one.Score, box[0], box[1], box[2], box[3], pixels, one.CategoryName)
	}
	return labels, nil
}

func min(first int, others ...int) int {
	for _, other := range others {
		if other < first {
			first = other
		}
	}
	return first
}

// decodeRle returns the mask, row by row, decoded from COCO's compressed RLE.
//
// Runs of background and foreground in turn, background first, go down the columns. From the fourth on, the difference
// to the run two places earlier is written. A number comes in groups of five bits, lowest first, the last one's highest
// bit its sign; 32 is added where more groups follow, and 48 to make it a character.
func decodeRle(counts string, rows, cols int) ([]bool, error) {
	mask := make([]bool, rows*cols)
	var runs []int64
	var at, value, shift int64
	for _, character := range []byte(counts) {
		group := int64(character) - 48
		value |= (group & 31) << shift
		shift += 5
		if group&32 != 0 && shift < 60 {
			continue
		}
		value -= (group & 16) << (shift - 4)
		if len(runs) > 2 {
			value += runs[len(runs)-2]
		}
		if value < 0 || value > int64(len(mask))-at {
			break
		}
		for end := at + value; at < end; at++ {
			mask[int(at)%rows*cols+int(at)/rows] = len(runs)%2 == 1
		}
		runs = append(runs, value)
		value, shift = 0, 0
	}
	if at != int64(len(mask)) || shift != 0 {
		return nil, fmt.Errorf("RLE does not match %d x %d pixels", rows, cols)
	}
	return mask, nil
}

func write(folder string, found *result, labels []uint16) error {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	var pgm bytes.Buffer
	fmt.Fprintf(&pgm, "P5\n%d %d\n65535\n", found.Size[1], found.Size[0])
	if err := binary.Write(&pgm, binary.BigEndian, labels); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "masks.pgm"), pgm.Bytes(), 0o666); err != nil {
		return err
	}
	if len(found.Image) == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(folder, "rendered.jpg"), found.Image, 0o666)
}
